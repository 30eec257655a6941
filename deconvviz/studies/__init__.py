"""Studies: one folder each, on top of the engine. A study imports another only where the architecture test lists it."""
