"""The results page of an evaluation: one HTML file with figures and pictures."""
