"""How few labelled cells are too few."""

from __future__ import annotations

# A bundle's proof was made on hundreds: a verdict on a handful, which may be right by chance, must not displace it.
FEWEST_TO_PROVE = 10  # of each class
# What is taken for the largest activation, and for the way a cell looks, must not be one cell's own.
FEWEST_TO_CONVERT = 5  # of each class
