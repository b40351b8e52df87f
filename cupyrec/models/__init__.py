"""Models, made out of functions."""
