"""The checks: each asks a subject and yields findings."""
