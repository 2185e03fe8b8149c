"""Ablations: the rows of a sweep over several seeds."""
