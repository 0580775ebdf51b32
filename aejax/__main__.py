"""`python -m aejax`."""

from aejax.cli import main

main()
