"""A single-shot detector whose small objects borrow features from larger ones."""
