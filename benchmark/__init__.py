"""Which runs make a table, launching them, reading their results, and the tables themselves."""
