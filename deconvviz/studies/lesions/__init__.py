"""What a trained network loses without a filter or a layer."""
