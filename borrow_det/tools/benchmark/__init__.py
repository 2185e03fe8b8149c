"""Benchmarks of a config's programs."""
