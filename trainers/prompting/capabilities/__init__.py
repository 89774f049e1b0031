"""Base classes for groups of methods, which they inherit in place of `Method`."""
