"""How a model runs: precision, memory, compiling, and several processes."""
