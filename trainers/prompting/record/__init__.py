"""The record of a run: its predictions, metrics and provenance. Reading them needs no PyTorch."""
