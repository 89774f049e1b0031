"""Mistakes in a plug-in method: each gives one sentence, and nothing is trained or recorded."""

import pytest
import tiny
import torch
from test_method import IMAGES, LABELS, NAMES, Mine, build
from torch import nn

from trainers.prompting import Method, UserError, build_method
from trainers.prompting.method import METHODS, register
from trainers.prompting.model import Parts
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step


class Detached(Mine):
    def loss(self, output, batch):
        return super().loss(output, batch).detach()


class Constant(Mine):
    def loss(self, output, batch):
        return torch.ones(())


class Lazy(Mine):
    def backward(self, terms, scale=None):
        pass


@pytest.mark.parametrize("kind", [Detached, Constant, Lazy])
def test_a_method_that_learns_nothing_from_its_loss(tiny_clip, kind):
    method = build(kind, tiny_clip).train()
    optimizer = torch.optim.SGD(method.model.trained().parameters(), lr=0.1)
    precision = Precision("fp32", torch.device("cpu"))
    with pytest.raises(UserError, match=f"{kind.__name__}.* depend"):
        training_step(method, method.batch(IMAGES, LABELS), optimizer, precision)


def turned(text=(4, 4), vision=(), **changes):
    """Return parts that make contexts with these numbers of tokens at each depth."""

    class Turned(Parts):
        def contexts(self, contexts):
            text_, vision_ = contexts.text, contexts.vision
            made = [torch.zeros(1, b, 128) for b in text] if text else text_
            seen = [torch.zeros(1, b, 128) for b in vision] if vision else vision_
            return contexts._replace(text=made, vision=seen, **changes)

    return Turned()


SHAPES = {
    "longer deep": turned((4, 5)),
    "shorter first": turned((3, 3)),
    "longer first": turned((5, 5)),
    "too deep": turned((4,) * 9),
    "longer deep visual": turned(vision=(4, 5)),
    "nothing": turned(text=None),
}


@pytest.mark.parametrize("case", SHAPES)
def test_contexts_that_do_not_fit(tiny_clip, case):
    node = {"N_CTX_TEXT": 4, "N_CTX_VISION": 4, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2}
    model = build_method("IVLP", node, tiny_clip, NAMES).model
    model.parts = turned()
    assert model.train()(IMAGES).shape == (4, 3)
    if case == "nothing":
        model.parts.contexts = lambda contexts: None
    else:
        model.parts = SHAPES[case]
    for mode in (True, False):
        with pytest.raises(UserError, match="`contexts` of the Parts 'Turned' returns"):
            model.train(mode)(IMAGES)


def test_text_contexts_of_a_method_without_textual_prompts(tiny_clip):
    model = build_method("VPT", {"PROMPT_DEPTH_VISION": 2}, tiny_clip, NAMES).model
    model.parts = turned((4, 4))
    with pytest.raises(UserError, match="`contexts` of the Parts 'Turned' returns some"):
        model(IMAGES)


def a_function():
    pass


def bare(**said):
    """Return a class of a method with only these attributes."""
    return type("Bare", (Method,), {"point": Mine.point, **said})


GOOD = {"node": "BARE", "Settings": Mine.Settings}
WITHOUT = {
    "a function": (a_function, "'a_function' is not a method"),
    "another class": (dict, "'dict' is not a method"),
    "an object": (Parts(), "is not a method"),
    "no node": (bare(Settings=Mine.Settings), "`node` of the method Bare is None"),
    "a number for a node": (bare(**GOOD | {"node": 5}), "`node` of the method Bare is 5"),
    "no settings": (bare(node="BARE"), "The method Bare has no settings"),
    "no dataclass": (
        bare(node="BARE", Settings=type("Settings", (Method.Settings,), {})),
        "`Settings` of Bare is not a dataclass",
    ),
    "no point": (type("Bare", (Method,), GOOD), "`point` of the method Bare is"),
    "no folder": (bare(**GOOD, checkpoint=""), "`checkpoint` of the method Bare is ''"),
    "a folder elsewhere": (bare(**GOOD, checkpoint="../other"), "'../other' but must be the name"),
    "no views": (bare(**GOOD, views=0), "`views` of the method Bare is 0"),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_invalid_methods_are_not_registered(case):
    what, said = WITHOUT[case]
    before = dict(METHODS)
    with pytest.raises(UserError) as error:
        register(what)
    assert said in str(error.value) and before == METHODS


class Named(Parts):
    """Parts with the name of a prompt in checkpoints."""

    prefix = "prompt_learner."

    def __init__(self):
        super().__init__()
        self.ctx = nn.Parameter(torch.ones(2, 128))


class Doubled(Parts):
    def text(self, features):
        return features._replace(h=torch.cat([features.h, features.h], dim=1))


class Single(Parts):
    def image(self, features):
        return features._replace(z=features.z[:1])


class Astray(Mine):
    """A method that makes the mistake `case`."""

    node, case = "ASTRAY", ""

    @staticmethod
    def point(node):
        return {"M": 0} if Astray.case == "point" else Mine.point(node)

    def setup(self, clip_model, classnames, dataset):
        if self.case == "own parameter":
            self.weight = nn.Parameter(torch.ones(3))
        kinds = {"linear": lambda: nn.Linear(2, 2), "name": Named, "more": Doubled, "fewer": Single}
        if self.case in kinds:
            self.model.parts = kinds[self.case]()


ASTRAY = {
    "point": "`point` of Astray returns dict, not a PromptSpec",
    "own parameter": "'weight' of Astray would not be trained: move it to a `Parts`",
    "linear": "`model.parts` of Astray is a Linear: make it a subclass of `Parts`",
    "name": "'prompt_learner.ctx' would name both a prompt and a part in checkpoints",
    "more": "The logits have the shape (2, 8) but must have (2, 4)",
    "fewer": "The logits have the shape (1, 4) but must have (2, 4)",
}


@pytest.mark.parametrize("case", ASTRAY)
def test_a_mistake_in_a_method_stops_the_run(tmp_path, capsys, monkeypatch, case):
    monkeypatch.setattr(Astray, "case", case)
    monkeypatch.setitem(METHODS, "Astray", Astray)
    assert tiny.run(tmp_path, "Astray", None, 1) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and ASTRAY[case] in line
