"""Variants of the network trained by one recipe and compared (table 3 of the paper)."""
