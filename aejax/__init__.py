"""aejax: autoencoder recommenders in JAX, from a shop's three CSV files to recommendations with held-out evidence."""

__version__ = "0.1.0"
