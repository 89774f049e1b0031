"""A look into methods and trained runs."""
