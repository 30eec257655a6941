"""A whole network as a folder of pages to browse."""
