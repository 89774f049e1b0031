"""Download public data sets and check them."""
