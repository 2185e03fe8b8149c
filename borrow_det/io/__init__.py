"""Files and paths, local and remote."""
