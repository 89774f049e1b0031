"""Keys of a cfg's node DATASET that change the training images, with defaults. Needs no PyTorch."""

CHANGES = {"LABEL_NOISE": 0.0, "LABEL_NOISE_KIND": "symmetric", "IMBALANCE": 1.0}
