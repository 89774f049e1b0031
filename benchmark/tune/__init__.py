"""Settings of methods, chosen on validation images: the same effort for every method."""
