"""Where embeddings live and are trained; one file for each system."""
