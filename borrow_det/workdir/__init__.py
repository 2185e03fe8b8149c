"""The work directory of a run."""
