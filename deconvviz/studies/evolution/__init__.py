"""Evolution: how filters came to be during a training (figure 4 of the paper)."""
