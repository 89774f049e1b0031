"""Keys of a cfg's node DATASET that change a run, with defaults. Needs no PyTorch."""

CHANGES = {"LABEL_NOISE": 0.0, "LABEL_NOISE_KIND": "symmetric", "IMBALANCE": 1.0}  # the images
SENTENCES = {"SENTENCES": "", "SENTENCES_RULE": "", "SENTENCES_FORM": ""}  # those about the classes
WAFFLE = "waffle"  # SENTENCES of random words, which the seed draws
