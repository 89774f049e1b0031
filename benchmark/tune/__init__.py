"""Choose settings of methods on validation images, with the same effort for every method."""
