"""The trainer, trained models, and what both take of memory."""
