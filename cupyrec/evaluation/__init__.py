"""What a model is worth on a source, and whether the source fits it."""
