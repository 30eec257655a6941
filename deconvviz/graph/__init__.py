"""What a network computes: capture, run to a layer, run from a layer on, and how far each value reaches."""
