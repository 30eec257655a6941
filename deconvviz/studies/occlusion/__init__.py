"""What a network makes of an image under a moving square (figure 7 of the paper)."""
