"""Conversion of folders of images and annotations to COCO's format."""
