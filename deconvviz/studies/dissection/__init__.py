"""Which concept each filter detects: network dissection, enrichment of classes, and directions of concepts."""
