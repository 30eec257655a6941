"""Explainers that are trained."""
