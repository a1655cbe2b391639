"""Turns a run folder into a bundle that the runtime reads."""
