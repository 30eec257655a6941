"""What the checks measure."""
