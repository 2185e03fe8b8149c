"""Large images in views: overlapping tiles, and their detections merged."""
