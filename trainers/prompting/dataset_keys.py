"""Keys of a cfg's nodes DATASET and TEST that change a run, with defaults. Needs no PyTorch."""

CHANGES = {"LABEL_NOISE": 0.0, "LABEL_NOISE_KIND": "symmetric", "IMBALANCE": 1.0}  # the images
SENTENCES = {"SENTENCES": "", "SENTENCES_RULE": ""}  # those about the classes
STREAM = {"STREAM": "shuffled"}  # of TEST: the order of test images
