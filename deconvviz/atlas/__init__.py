"""Result files -> static HTML. Nothing here imports torch."""
