"""Attacks on images: gradients, the golden files, records of runs, mistakes."""

import models
import pytest
import torch
import torch.nn.functional as F
from cases import slow_but

from trainers.prompting import build_method
from trainers.prompting.method import METHODS

NAMES = models.NAMES[:2]
QUICK = ("ALIGN", "CoCoOp", "HiCroPL", "ProLIP", "TPT", "ZeroshotCLIP")

# ------------------------------------------------------------------ gradients


@pytest.mark.parametrize("name", slow_but(METHODS, *QUICK))
def test_gradients_reach_the_pixels(tiny_clip, name):
    """In a direction that no part of the gradient is orthogonal to, within 1% of a difference."""
    node = models.settings(name) | ({"C": 1e-3} if name == "LinearProbe" else {})
    support = models.support_of(name, NAMES)
    method = build_method(name, node, tiny_clip, NAMES, "EuroSAT", support).eval()
    x = models.images(1)

    def loss(images):
        return F.cross_entropy(method(images).double(), torch.tensor([0]))

    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(images), images)
    step = 0.05 * (F.normalize(gradient.flatten(), dim=0) + F.normalize(x.flatten(), dim=0))
    step = step.view_as(x)
    with torch.no_grad():
        difference = (loss(x + step) - loss(x - step)) / 2
    assert float((gradient * step).sum()) == pytest.approx(float(difference), rel=0.01)
