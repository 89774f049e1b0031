"""Checkpoints: written, read, compared, refused."""
