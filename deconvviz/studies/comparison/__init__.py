"""What a change did to a network: two sets of weights of one architecture, side by side."""
