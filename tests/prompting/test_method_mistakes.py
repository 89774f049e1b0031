"""Mistakes in a plug-in method: each gives one sentence, and nothing is trained or recorded."""

import pytest
import tiny
import torch
from test_method import IMAGES, LABELS, NAMES, Mine, build
from torch import nn

from trainers.prompting import Method, UserError
from trainers.prompting.method import METHODS, register
from trainers.prompting.methods.ivlp import IVLP
from trainers.prompting.model import Parts


class Detached(Mine):
    def loss(self, output, batch):
        return super().loss(output, batch).detach()


def test_a_loss_that_depends_on_nothing_that_is_trained(tiny_clip):
    method = build(Detached, tiny_clip).train()
    with pytest.raises(UserError, match="The loss of Detached does not depend"):
        method.backward(method.losses(IMAGES, LABELS))


def turned(text=(4, 4), vision=()):
    """Return a method like IVLP whose parts make contexts with these numbers of tokens by depth."""

    class Contextual(Parts):
        def contexts(self, contexts):
            text_, vision_ = contexts.text, contexts.vision
            made = [torch.zeros(1, b, 128) for b in text] if text else text_
            seen = [torch.zeros(1, b, 128) for b in vision] if vision else vision_
            return contexts._replace(text=made, vision=seen)

    class Turned(IVLP):
        def setup(self, clip_model, classnames, dataset):
            self.model.parts = Contextual()

    return Turned


SHAPES = {
    "longer deep": ((4, 5), ()),
    "shorter first": ((3, 3), ()),
    "too deep": ((4,) * 9, ()),
    "longer deep visual": ((), (4, 5)),
}
BOTH = {"N_CTX_TEXT": 4, "N_CTX_VISION": 4, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2}


@pytest.mark.parametrize("case", SHAPES)
def test_contexts_that_do_not_fit(tiny_clip, case):
    assert turned()(IVLP.Settings(**BOTH), tiny_clip, NAMES).model(IMAGES).shape == (4, 3)
    with pytest.raises(UserError, match="`contexts` of the Parts of Turned returns"):
        turned(*SHAPES[case])(IVLP.Settings(**BOTH), tiny_clip, NAMES)


def test_settings_that_are_not_a_dataclass_are_not_registered():
    kind = type("Bare", (Mine,), {"Settings": type("Settings", (Method.Settings,), {})})
    before = dict(METHODS)
    with pytest.raises(UserError, match="`Settings` of Bare is not a dataclass"):
        register(kind)
    assert before == METHODS


class Named(Parts):
    """Parts with the name of a prompt in checkpoints."""

    prefix = "prompt_learner."

    def __init__(self):
        super().__init__()
        self.ctx = nn.Parameter(torch.ones(2, 128))


class Doubled(Parts):
    def text(self, features):
        return features._replace(h=torch.cat([features.h, features.h], dim=1))


class Astray(Mine):
    """A method that makes the mistake `case`."""

    node, case = "ASTRAY", ""

    def setup(self, clip_model, classnames, dataset):
        if self.case == "own parameter":
            self.weight = nn.Parameter(torch.ones(3))
        kinds = {"name": Named, "more": Doubled}
        if self.case in kinds:
            self.model.parts = kinds[self.case]()

    def backward(self, terms, scale=None):
        if self.case != "no gradient":
            super().backward(terms, scale)


ASTRAY = {
    "own parameter": "'weight' of Astray would not be trained: move it to a `Parts`",
    "name": "'prompt_learner.ctx' would name both a prompt and a part in checkpoints",
    "more": "The logits have the shape (4, 8) but must have (4, 4)",
    "no gradient": "`backward` of Astray leaves no gradient in any trained parameter",
}


@pytest.mark.parametrize("case", ASTRAY)
def test_a_mistake_in_a_method_stops_the_run(tmp_path, capsys, monkeypatch, case):
    monkeypatch.setattr(Astray, "case", case)
    monkeypatch.setitem(METHODS, "Astray", Astray)
    assert tiny.run(tmp_path, "Astray", None, 1) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and ASTRAY[case] in line
