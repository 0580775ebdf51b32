"""Shop tables: customers.csv, orders.csv and products.csv, read as text, checked, cleaned and accounted for."""

from aejax.tables.shop import read_shop

__all__ = ["read_shop"]
