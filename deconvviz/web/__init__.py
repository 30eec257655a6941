"""What pages share: templates, data as scripts, sprites, colours. Nothing here imports torch."""
