"""Measures a bundle before it is rolled out: how fast it is, and whether it decides like the Keras model."""
