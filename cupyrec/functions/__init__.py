"""Stateless maths, forward and backward, one operation a file."""
