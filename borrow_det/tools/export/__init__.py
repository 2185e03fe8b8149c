"""Export of a trained run to one file."""
