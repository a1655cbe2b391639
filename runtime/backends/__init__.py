"""Inference libraries behind one contract, a file each."""
