"""Result files -> static pages. Nothing here imports torch."""
