"""What a training may do beside the recipe: one file for each family of additions."""
