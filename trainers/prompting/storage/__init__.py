"""Storage: checkpoints, predictions, atomic writes of files, and locks."""
