"""One file a run; `base.py` holds every field."""
