"""Explanations of what small detections borrow."""
