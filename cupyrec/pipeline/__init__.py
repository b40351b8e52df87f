"""The look-forward pipeline: what to move, when it may be moved, and the threads that do it."""
