"""Optimizers, for dense parameters and for embedding rows, and learning-rate schedules."""
