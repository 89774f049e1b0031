"""The record of a run: its predictions, metrics and facts. Reading them needs no PyTorch."""
