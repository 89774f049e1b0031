"""Writes small files of features."""

import torch

from trainers.prompting.storage.features import write_features

K, PER_CLASS, D = 3, 8, 16
NAMES = ["forest", "sea", "annual crop"]
TEMPLATE = "a photo of a {}."


def content(normalised=False, seed=0):
    """Return tensors and a header: 8 rows of each class, 4 for training, 2 and 2 for the rest."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(K, D, generator=generator)
    label = torch.arange(K).repeat(PER_CLASS)
    image = text[label] + 0.5 * torch.randn(len(label), D, generator=generator)
    if normalised:
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
    rows = list(range(len(label)))
    header = {
        "classnames": NAMES,
        "split": {"train": rows[:12], "val": rows[12:18], "test": rows[18:]},
        "logit_scale": 10.0,
        "normalised": normalised,
        "template": TEMPLATE,
        "clip": "ViT-B/16",
    }
    return {"image": image, "label": label, f"text/{TEMPLATE}": text}, header


def write(path, tensors=None, header=None, **own):
    """Write a file of `content`, with other tensors and keys of the header, and return its path."""
    usual = content(**own)
    write_features(path, usual[0] | (tensors or {}), usual[1] | (header or {}))
    return path
