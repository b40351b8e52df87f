"""A run of `cupyrec train`: its checks, data, records and checkpoints, stopping and going on."""
