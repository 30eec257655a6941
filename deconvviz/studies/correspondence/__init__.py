"""Whether masking the same part of several images changes features alike (table 1 of the paper)."""
