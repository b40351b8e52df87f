"""The host table of row records, and the coalescing of a batch's rows."""
