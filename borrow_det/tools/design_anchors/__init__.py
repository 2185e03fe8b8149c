"""Anchor design for a dataset."""
