"""Prepared data: their format, reading them as batches, and splits."""
