"""Pruning: which filters a network can do without, measured by taking them out."""
