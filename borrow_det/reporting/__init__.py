"""Progress, metrics and reports of a run."""
