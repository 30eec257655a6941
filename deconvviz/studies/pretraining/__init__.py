"""Train a network without labels, and watch that it does not collapse."""
