"""Finding, decoding and padding images."""
