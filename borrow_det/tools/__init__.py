"""Command-line tools: `borrow-det NAME`, or `python -m borrow_det.tools.NAME`."""
