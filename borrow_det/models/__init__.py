"""Flax modules: trunks, the borrowing neck, the detector and the classifier."""
