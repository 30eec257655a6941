"""Which images drive each filter most, and the layer figure made of them."""
