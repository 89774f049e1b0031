"""Checks after the first step: the shape of logits, and learned tensors without a gradient."""

import torch
from tiny import run
from torch import nn

from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp


def test_what_the_loss_does_not_depend_on_is_named(tmp_path, capsys):
    @register
    class IdleHead(CoOp):
        def build(self, *given):
            super().build(*given)
            self.head = nn.Linear(2, 2)
            self.frozen = nn.Parameter(torch.zeros(1), requires_grad=False)

    assert run(tmp_path, "IdleHead", None, 1) == 0
    said = "No gradient reaches head.weight, head.bias: what is minimised does not depend on them"
    assert capsys.readouterr().out.count(said) == 1


def test_logits_of_another_shape(tmp_path, capsys):
    @register
    class OneMore(CoOp):
        def logits(self, image, text):
            return nn.functional.pad(super().logits(image, text), (0, 1))

    assert run(tmp_path, "OneMore") == 2
    assert "The logits of OneMore have the shape (4, 5) but must have (4, 4)" in (
        capsys.readouterr().err
    )
