"""What a person runs beside training: `python -m borrow_det.tools.NAME`."""
