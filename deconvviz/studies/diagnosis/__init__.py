"""What is wrong with a network: checks, findings, a page."""
