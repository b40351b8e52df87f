"""How large a scratchpad must be, found out from the ids alone: nothing trains."""
