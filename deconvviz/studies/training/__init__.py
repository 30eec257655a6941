"""Training a network by the paper's recipe, and recording its snapshots."""
