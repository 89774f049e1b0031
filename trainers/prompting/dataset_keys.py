"""Keys of a cfg's node DATASET that the data sets around this folder read. Needs no PyTorch."""

# With their defaults: those that change the training images, and those that say where shots are.
CHANGES = {"LABEL_NOISE": 0.0, "LABEL_NOISE_KIND": "symmetric", "IMBALANCE": 1.0}
SOURCES = {"KEPT_SHOTS": False, "FEATURES": ""}
