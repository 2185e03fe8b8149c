"""Flax modules: the VGG-16 trunk, the borrowing blocks, the detector."""
