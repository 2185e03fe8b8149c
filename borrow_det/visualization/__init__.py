"""Annotated images, learning curves and tables."""
