"""The explanation methods, a family a file."""
