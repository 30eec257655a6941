"""Attacks: images that are changed a little, so that a network takes them for something else."""
