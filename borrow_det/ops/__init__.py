"""Pure functions of arrays: boxes, anchors, assignment, losses, attention, NMS."""
