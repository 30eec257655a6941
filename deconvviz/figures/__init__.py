"""Arrays -> matplotlib figures. Nothing here imports torch."""
