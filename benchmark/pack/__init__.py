"""Results that others can check: runs packed into one file, and such a file verified."""
