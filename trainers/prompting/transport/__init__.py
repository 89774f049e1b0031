"""Batched optimal transport: the solver, and its use for tokens in ALIGN."""
