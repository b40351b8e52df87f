"""Row records: the host table, the hit map, the coalescing of a batch's rows, and their moving."""
