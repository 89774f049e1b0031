"""How a model is computed: devices, memory, precision, seeds."""
