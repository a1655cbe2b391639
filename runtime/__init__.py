"""Classifies cells with a bundle: numpy, Pillow and one inference library, no training library."""

__version__ = "0.1.0"
