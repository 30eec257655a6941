"""What a linear classifier can tell from each layer (tables 4, 5, 7 and figure 9 of the paper)."""
