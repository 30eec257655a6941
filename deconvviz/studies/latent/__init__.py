"""Generators: what their codes and the directions of their latent space change, and what their units draw."""
