"""Generated pictures of objects, with exact masks."""
