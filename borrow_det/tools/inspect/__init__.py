"""Reports on a dataset before training."""
