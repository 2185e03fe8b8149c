"""Configurations of runs; `base.py` has every field with its default."""
