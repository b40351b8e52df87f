"""Sources of mini-batches: Criteo files and generated data."""
