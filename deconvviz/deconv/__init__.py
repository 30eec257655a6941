"""From a unit back to pixels: switches, rules, projections."""
