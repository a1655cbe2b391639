"""Fits the networks on labelled cells and leaves a run folder."""
