"""What detections are worth: COCO and VOC average precision."""
