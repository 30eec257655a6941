"""Recurrent networks: which tokens move which units, which cells hold what, and which tokens made an output."""
