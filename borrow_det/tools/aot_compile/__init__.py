"""Compilation of a run's programs for TPU slices."""
