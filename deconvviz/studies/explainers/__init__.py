"""Training explainers that then explain an image in one forward pass."""
