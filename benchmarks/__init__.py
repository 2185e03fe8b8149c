"""Measurements of this project beside what else there is; see README.md here."""
