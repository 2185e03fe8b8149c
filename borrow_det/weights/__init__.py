"""Weights that others published: reading their files, and what their tensors are."""
