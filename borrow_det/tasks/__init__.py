"""What a run optimises: one module a task."""
