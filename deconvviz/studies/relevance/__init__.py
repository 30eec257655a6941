"""Relevance: which channels of a layer made the decisions, and the images in which they weighed most."""
