"""How features move when an image is translated, scaled or rotated (figure 5 of the paper)."""
