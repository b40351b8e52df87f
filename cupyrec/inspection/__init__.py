"""What a path holds: a run, a model, a checkpoint or prepared data."""
