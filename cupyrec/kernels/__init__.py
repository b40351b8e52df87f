"""CUDA sources (.cu) and, for those who need their text, where they are."""
