"""A plain image classifier, the model of a trainer that does not build its own."""

import torch.nn as nn
import torchvision.models

from dassl.utils import unknown_name

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh}


class SimpleNet(nn.Module):
    """A torchvision backbone, hidden layers if MODEL.HEAD.NAME is `mlp`, and a linear classifier.

    `num_classes` 0 leaves the classifier out.
    """

    def __init__(self, cfg, model_cfg, num_classes, **kwargs):
        super().__init__()
        self.backbone, features = _backbone(model_cfg.BACKBONE)
        self.head, features = _head(model_cfg.HEAD, features)
        self.classifier = nn.Linear(features, num_classes) if num_classes else None
        self.fdim = features

    def forward(self, x, return_feature=False):
        """Logits (B, num_classes) of images (B, 3, H, W), with their features if asked."""
        feature = self.head(self.backbone(x))
        if self.classifier is None:
            return feature
        logits = self.classifier(feature)
        return (logits, feature) if return_feature else logits


def _backbone(config):
    """A torchvision model without its last linear layer, and the width of what it gives."""
    names = torchvision.models.list_models(torchvision.models)
    if config.NAME not in names:
        raise unknown_name("backbone MODEL.BACKBONE.NAME", config.NAME, names)
    weights = "DEFAULT" if config.PRETRAINED else None
    model = torchvision.models.get_model(config.NAME, weights=weights)
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    features = model.get_submodule(last).in_features
    parent, _, child = last.rpartition(".")
    setattr(model.get_submodule(parent), child, nn.Identity())
    return model, features


def _head(config, features):
    """The hidden layers, and the width of what they give."""
    layers = []
    if config.NAME not in ("", "mlp"):
        raise unknown_name("head MODEL.HEAD.NAME", config.NAME, ["mlp"])
    for width in config.HIDDEN_LAYERS if config.NAME else ():
        layers.append(nn.Linear(features, width))
        if config.BN:
            layers.append(nn.BatchNorm1d(width))
        layers.append(_ACTIVATIONS[config.ACTIVATION]())
        if config.DROPOUT > 0:
            layers.append(nn.Dropout(config.DROPOUT))
        features = width
    return nn.Sequential(*layers), features
