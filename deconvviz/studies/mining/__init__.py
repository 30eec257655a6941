"""Mining: which images activate each channel most, and the layer figure that is made of them."""
