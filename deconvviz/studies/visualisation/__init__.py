"""Pictures by optimisation: what a filter, a class or a direction would like best, and what a layer still knows."""
