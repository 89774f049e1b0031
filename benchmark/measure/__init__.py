"""Time, memory and operations of what trains."""
