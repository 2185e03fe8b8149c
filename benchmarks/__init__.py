"""Benchmarks of this project against its peers; see README.md in this folder."""
