"""The work directory of a run: its files, checkpoints and initial weights."""
