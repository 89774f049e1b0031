"""Batched optimal transport: the solver, and the token level of ALIGN."""
