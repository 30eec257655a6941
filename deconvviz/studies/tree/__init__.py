"""A tree over the classes of a network, from its last weights; a decision is a path from the root to a leaf."""
