"""This project against its peers, side by side in one process: see README.md."""
