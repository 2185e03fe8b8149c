"""Benchmarks of a run's programs."""
