"""What is kept: checkpoints, predictions, files that appear whole, and locks."""
