"""What a method must keep to: mistakes that a plug-in's author would not see."""

import copy
import re

import pytest
import torch
from test_method import IMAGES, LABELS, Mine, build
from torch import nn

from trainers.prompting import (
    Added,
    ImageEncoder,
    LowRank,
    Method,
    Teacher,
    UserError,
    register,
)  # fmt: skip
from trainers.prompting.capabilities import CAPABILITIES
from trainers.prompting.contract import check_registered

# ------------------------------------------------------------------ what the class body says


def test_forward_is_not_overridden():
    with pytest.raises(UserError, match="Own overrides `forward`, which no training calls"):
        register(type("Own", (Mine,), {"forward": lambda self, images: None}))


HELPERS = {
    "a function": {"batch": lambda self, x: x},
    "of PyTorch": {"apply": lambda self, text, image: text},
    "more arguments": {"compare": lambda self, image, text, scale: scale},
    "fewer": {"backward": lambda self, terms: None},
    "a property": {"conditional": lambda self, x: x},
    "a value": {"views": lambda self, x: x},
}


@pytest.mark.parametrize("case", HELPERS)
def test_a_helper_with_the_name_of_a_function_of_the_base(case):
    (name,) = HELPERS[case]
    with pytest.raises(UserError, match=f"Helped defines a function `{name}`, which replaces"):
        register(type("Helped", (Mine,), HELPERS[case]))


HOOKS = {  # of each capability one, and its signature with another argument
    "AtTestTime": ("reset", {"reset": lambda self, images: None}),
    "Biased": ("start_bias", {"start_bias": lambda self: None}),
    "OfViews": ("from_views", {"from_views": lambda self, x: x}),
    "OneView": ("take_views", {"take_views": lambda self, views: None}),
    "OnSupport": ("take_support", {"take_support": lambda self, features: None}),
    "PerClass": ("make_room", {"make_room": lambda self: None}),
    "Planned": ("plan_epoch", {"plan_epoch": lambda self, epoch: None}),
    "PublicFiles": ("read_public", {"read_public": lambda self: None}),
    "Staged": ("after_epoch", {"after_epoch": lambda self, epoch: None}),
    "Taught": ("taught_by", {"taught_by": lambda self: {}}),
    "Transductive": ("predict_all", {"predict_all": lambda self, image: None}),
    "Unlabelled": ("take_classes", {"take_classes": lambda self: None}),
}


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda kind: kind.__name__)
def test_a_hook_without_its_capability_or_with_other_arguments(capability):
    name, body = HOOKS[capability.__name__]
    said = f"Lost defines `{name}` of {capability.__name__}, from which it does not inherit"
    with pytest.raises(UserError, match=said):
        register(type("Lost", (Mine,), {name: getattr(capability, name)}))
    with pytest.raises(UserError, match=f"Named defines a function `{name}`, which replaces"):
        register(type("Named", (capability, Mine), body))


# ------------------------------------------------------------------ what is learned


LEARNED = torch.ones(2, requires_grad=True)
HIDDEN = {
    "a list": (lambda self, clip: setattr(self, "own", [nn.Linear(2, 2)]), "own.0.weight"),
    "a dict": (lambda self, clip: setattr(self, "own", {"a": nn.Linear(2, 2)}), "own.a.weight"),
    "a tensor": (lambda self, clip: setattr(self, "own", LEARNED), "own"),
    "deep": (lambda self, clip: setattr(self, "own", ({"a": [nn.Parameter(IMAGES)]},)), "own.0.a"),
    "a buffer": (lambda self, clip: self.register_buffer("own", LEARNED), "own"),
    "of a module": (
        lambda self, clip: setattr(self.prompt_learner, "own", [nn.Parameter(IMAGES)]),
        "prompt_learner.own.0",
    ),
    "an encoder": (
        lambda self, clip: setattr(
            self, "image_encoder", ImageEncoder(copy.deepcopy(clip.visual).requires_grad_())
        ),
        "image_encoder.visual",
    ),
    "an addition": (
        lambda self, clip: setattr(self, "blocks", lambda side: {0: Added(beside=Both(128))}),
        "blocks('",
    ),
}


class Both(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x, y):
        return self.map(x) + y


@pytest.mark.parametrize("case", HIDDEN)
def test_tensors_that_learn_but_are_not_registered(tiny_clip, case):
    change, place = HIDDEN[case]

    class Hiding(Mine):
        def build(self, clip_model, classnames, dataset):
            super().build(clip_model, classnames, dataset)
            change(self, clip_model)

    said = re.escape(f"Hiding keeps a tensor that requires a gradient in '{place}")
    with pytest.raises(UserError, match=said):
        build(Hiding, tiny_clip)


def test_tensors_that_are_made_later(tiny_clip):
    method = build(Mine, tiny_clip)
    method.teacher, method.last = (tiny_clip,), method.losses(IMAGES, LABELS)["loss"]
    check_registered(method)  # a frozen CLIP, and a result
    method.late = [nn.Linear(2, 2)]
    with pytest.raises(UserError, match="in 'late.0.weight', where nothing trains or saves it"):
        check_registered(method)


def test_a_whole_clip_is_a_teacher(tiny_clip):
    class Taught(Mine):
        def build(self, clip_model, classnames, dataset):
            super().build(clip_model, classnames, dataset)
            self.teacher = copy.deepcopy(clip_model).requires_grad_(self.trained)

    Taught.trained = True
    with pytest.raises(UserError, match="Taught would train 'teacher', a whole CLIP: .* Teacher"):
        build(Taught, tiny_clip)
    Taught.trained = False
    assert set(build(Taught, tiny_clip).learned()) == {"prompt_learner.ctx"}


class Copied(Mine):
    """The blocks of one encoder are a copy, and all their weights learn."""

    side = "image"

    def encoders(self, clip_model, classnames, dataset):
        self.copies = (copy.deepcopy(clip_model),)
        source = self.copies[0] if self.side == "text" else clip_model
        text, image = super().encoders(source, classnames, dataset)
        return text, ImageEncoder(self.copies[0].visual) if self.side == "image" else image

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        tower = self.copies[0] if self.side == "text" else self.copies[0].visual
        self.own = tower.transformer.resblocks.requires_grad_()


@pytest.mark.parametrize("side", ["text", "image"])
def test_every_weight_of_a_copied_block_has_a_gradient(tiny_clip, side):
    """As by CLIP's own code."""
    method = build(type("Copied", (Copied,), {"side": side}), tiny_clip)
    method.backward(method.losses(IMAGES, LABELS))
    without = [name for name, p in method.learned().items() if p.grad is None]
    assert len(method.learned()) == 1 + 4 * 12 and not without
    if side == "image":
        own = method.copies[0].visual
        gradients = [p.grad.clone() for p in method.own.parameters()]
        method.zero_grad()
        z = nn.functional.normalize(own(IMAGES), dim=-1)
        logits = method.logit_scale * z @ method.text().h[0].T
        nn.functional.cross_entropy(logits, LABELS).backward()
        for found, p in zip(gradients, method.own.parameters(), strict=True):
            torch.testing.assert_close(found, p.grad, rtol=1e-3, atol=1e-5)


def test_text_of_blocks_that_learn_is_not_kept(tiny_clip):
    """Not even where an addition begins later, or the sentences have no learned tokens."""

    class Late(Copied):
        side = "text"

        def encoders(self, clip_model, classnames, dataset):
            self.copies = (copy.deepcopy(clip_model),)
            return Method.encoders(self, self.copies[0], classnames, dataset)

        def build(self, clip_model, classnames, dataset):
            self.update = LowRank.of("v", 128, 2, 1.0)
            self.own = self.copies[0].transformer.resblocks.requires_grad_()

        def contexts(self):
            return Method.contexts(self)

        def blocks(self, side):
            return {3: Added(weights={"v": self.update})} if side == "text" and self.adds else {}

    for Late.adds in (True, False):
        method = build(Late, tiny_clip)
        for _ in range(2):
            method.zero_grad()
            method.backward(method.losses(IMAGES, LABELS))
            assert all(p.grad is not None for p in method.own.parameters())


def test_what_build_leaves_frozen_is_saved_but_not_learned(tiny_clip):
    class Headed(Mine):
        def build(self, clip_model, classnames, dataset):
            super().build(clip_model, classnames, dataset)
            self.head = nn.Linear(2, 2).requires_grad_(False)
            self.teacher = Teacher(clip_model, classnames, ["a {}."])

    method = build(Headed, tiny_clip)
    method.requires_grad_(True)  # as a stage might; the saved state is the same
    assert set(method.learned()) == {"prompt_learner.ctx"}
    assert set(method.public_state_dict()) == {"prompt_learner.ctx", "head.weight", "head.bias"}


# ------------------------------------------------------------------ additions


class Convolution(nn.Module):
    """A bypass that mixes positions, and is 0 at first."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Conv1d(width, width, 3, padding=1)
        nn.init.zeros_(self.mix.weight), nn.init.zeros_(self.mix.bias)

    def forward(self, x, y=None):
        return self.mix(x.transpose(-1, -2)).transpose(-1, -2)


def added(**given):
    class Adding(Mine):
        def build(self, clip_model, classnames, dataset):
            super().build(clip_model, classnames, dataset)
            (key, self.own) = next(iter(given.items()))
            self.here = Added(weights={"q": self.own}) if key == "q" else Added(**{key: self.own})

        def blocks(self, side):
            return {0: self.here} if side == "image" else {}

    return Adding


@pytest.mark.parametrize("place", ["beside", "before"])
def test_modules_that_mix_positions(tiny_clip, place):
    said = f"block 0 of the image encoder has '{place}', whose output at a position depends"
    with pytest.raises(UserError, match=said):
        build(added(**{place: Convolution(128)}), tiny_clip)


def test_modules_that_treat_each_position_for_itself(tiny_clip):
    own = Both(128)
    own.drop = nn.Dropout(0.5)
    kind, before = added(beside=own), torch.get_rng_state()
    method = build(kind, tiny_clip)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    build(Mine, tiny_clip)
    assert torch.equal(after, torch.get_rng_state()), "the check draws no numbers of the run"
    assert method.own.drop.training and len(method.learned()) == 3
