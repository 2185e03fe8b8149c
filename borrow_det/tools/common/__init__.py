"""Helpers shared by several tools."""
