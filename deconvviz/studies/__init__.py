"""What is computed over many images: mining, layer figures."""
