"""Metrics of detections, classifications and attention."""
