"""`python -m benchmark`: protocols, reports, measurements and data."""
