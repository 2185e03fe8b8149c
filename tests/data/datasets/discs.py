"""Measurements of the discs that scale_pairs and the sets like it draw."""

import numpy as np


def hue_distance(a, b):
    """Returns the distance of two hues on the circle of length 1."""
    return abs((a - b + 0.5) % 1.0 - 0.5)


def box(disc):
    """Returns the box of a disc, relative to the side of the image."""
    return np.array(
        [
            disc.y - disc.radius,
            disc.x - disc.radius,
            disc.y + disc.radius,
            disc.x + disc.radius,
        ]
    )


def interior(image, disc, share=0.7):
    """Returns the pixels of the inscribed square of a disc, float64 [n, n, 3]."""
    side = image.shape[0]
    half = int(disc.radius * side * share)
    y, x = round(disc.y * side), round(disc.x * side)
    return image[y - half : y + half, x - half : x + half].astype(np.float64)


def stripe_species(patch):
    """Returns the species with the direction of the strongest frequency."""
    gray = patch.mean(axis=-1)
    window = np.hanning(len(gray))
    spectrum = np.fft.fft2((gray - gray.mean()) * np.outer(window, window))
    fy, fx = np.unravel_index(np.argmax(np.abs(spectrum)), spectrum.shape)
    frequency = np.fft.fftfreq(len(gray))
    # The direction is perpendicular to the stripes; y increases downwards.
    across = np.degrees(np.arctan2(-frequency[fy], frequency[fx]))
    return round((across + 90) / 45) % 4
