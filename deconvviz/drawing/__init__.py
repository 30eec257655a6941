"""The public drawing functions: a result in, a matplotlib Figure out. A notebook shows each result by one of them."""
