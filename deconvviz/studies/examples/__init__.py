"""Training images as the explanation of a decision: near ones, those that taught it, typical ones, wrong labels."""
