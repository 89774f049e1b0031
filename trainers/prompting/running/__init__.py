"""The execution of a model: precision, memory and compiling."""
