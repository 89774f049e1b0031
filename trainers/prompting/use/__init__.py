"""Trained runs: loaded to classify images, and exported; no trainer or data set is needed."""
