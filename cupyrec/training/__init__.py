"""The trainer and what goes with it: evaluation, metrics, saved models, progress."""
