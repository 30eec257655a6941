"""Ensembles: how well several networks classify together, by the mean of their probabilities."""
