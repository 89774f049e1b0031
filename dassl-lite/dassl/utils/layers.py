"""Which parameters learn, and how many there are."""

import torch.nn as nn

from .errors import unknown_name


def count_num_param(model=None, params=None):
    """Number of parameters in a model, or in parameters or parameter groups."""
    if model is not None:
        return sum(p.numel() for p in model.parameters())
    groups = [p["params"] if isinstance(p, dict) else [p] for p in params or []]
    return sum(p.numel() for group in groups for p in group)


def open_all_layers(model):
    """Let every parameter learn."""
    model.train()
    model.requires_grad_(True)


def open_specified_layers(model, open_layers):
    """Let only the named children learn; the others are frozen and put into eval mode."""
    model = model.module if isinstance(model, nn.DataParallel) else model
    open_layers = [open_layers] if isinstance(open_layers, str) else open_layers
    children = dict(model.named_children())
    for layer in open_layers:
        if layer not in children:
            raise unknown_name("layer", layer, children)
    for name, child in children.items():
        child.train(name in open_layers)
        child.requires_grad_(name in open_layers)
