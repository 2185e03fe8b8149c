"""Image files: finding, converting, decoding and padding them."""
