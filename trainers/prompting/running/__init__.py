"""The execution of a model: precision and memory."""
