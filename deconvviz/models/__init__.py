"""Networks: found by name, loaded from files."""
