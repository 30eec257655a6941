"""Networks by name, their weights from files, and the names of their outputs."""
