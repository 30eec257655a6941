"""Maps: one image taken apart by a network, and the kernels that do it."""
