"""Explanations of a pair of images: why a network takes the two for alike."""
