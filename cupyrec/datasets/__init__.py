"""Sources of mini-batches: raw Criteo files, prepared data, generated data."""
