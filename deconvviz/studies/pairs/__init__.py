"""Pairs of images: why a network takes them for alike, by several methods, and how well each explains it."""
