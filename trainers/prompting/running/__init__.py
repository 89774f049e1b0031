"""The execution of a model: precision, memory, compiling, and several processes."""
