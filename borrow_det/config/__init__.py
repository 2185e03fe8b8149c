"""Command lines and the validation of configurations."""
