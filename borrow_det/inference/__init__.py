"""Trained runs on pictures."""
