"""What all pages share: templates, data as scripts, sprites and colours. Nothing here imports torch."""
