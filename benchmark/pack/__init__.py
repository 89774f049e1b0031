"""Results that others can check: pack runs into one file, and verify such a file."""
