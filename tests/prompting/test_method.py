"""The hooks of a method, and the errors for bad settings and losses."""

from dataclasses import dataclass

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn
from trainers.prompting.model.parts import Parts

from trainers.prompting import Method, PromptSpec, Teacher, UserError, build_method, prompt_spec
from trainers.prompting.method import METHODS, Batch, register
from trainers.prompting.trainer.config import read_node
from trainers.prompting.trainer.layout import PublicLayout
from trainers.prompting.use.export import Program

NAMES = ["forest", "sea", "road"]
IMAGES, LABELS = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])


class Mine(Method):
    """CoOp with two context tokens."""

    node = "MINE"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        N_CTX: int = 2
        PREC: str = "fp32"

    @staticmethod
    def point(node):
        return PromptSpec(
            M=0, N=1, beta=0, score="cosine", templates=("X X",), text_length=2, text_depth=1
        )


def build(kind, clip_model, **node):
    return kind(read_node(kind, node), clip_model, NAMES)


def test_keys_of_a_node_are_those_of_the_settings():
    assert Mine.defaults == {"N_CTX": 2, "PREC": "fp32"}
    found = vars(read_node(Mine, {"N_CTX": 3}, "Food101"))
    assert found == {"N_CTX": 3, "PREC": "fp32", "dataset": "Food101"}
    with pytest.raises(UserError, match="TRAINER.MINE.N_CTX is 'a' but must be a whole number"):
        read_node(Mine, {"N_CTX": "a"})
    with pytest.raises(UserError, match="TRAINER.MINE has no key 'N_CTXT': did you mean"):
        read_node(Mine, {"N_CTXT": 3})


def test_terms_add_up_unless_one_is_called_loss(tiny_clip):
    class Summed(Mine):
        def loss(self, output, batch):
            ce = F.cross_entropy(output.logits, batch.labels)
            return {"ce": ce, "twice": 2 * ce.reshape(1)}

    class Named(Summed):
        def loss(self, output, batch):
            terms = super().loss(output, batch)
            return {**terms, "loss": terms["twice"]}

    summed = build(Summed, tiny_clip).train().losses(IMAGES, LABELS)
    assert set(summed) == {"loss", "ce", "twice"}
    assert summed["loss"].item() == pytest.approx(3 * summed["ce"].item())
    named = build(Named, tiny_clip).train().losses(IMAGES, LABELS)
    assert named["loss"] == named["twice"]


def test_a_count_may_be_returned_with_the_loss(tiny_clip):
    class Counted(Mine):
        def loss(self, output, batch):
            hits = (output.logits.argmax(1) == batch.labels).sum()
            return {"loss": super().loss(output, batch), "hits": hits}

    terms = build(Counted, tiny_clip).train().losses(IMAGES, LABELS)
    assert set(terms) == {"loss", "hits"}


def test_parts_are_trained_saved_and_seen_by_the_score(tiny_clip):
    class Scale(Parts):
        prefix = "adapter."

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(0.5))

        def text(self, features):
            return features._replace(h=features.h * self.weight)

    class Scaled(Mine):
        def setup(self, clip_model, classnames, dataset):
            self.model.parts = Scale()

    torch.manual_seed(0)
    plain = build(Mine, tiny_clip)
    torch.manual_seed(0)
    scaled = build(Scaled, tiny_clip)
    for mode in (True, False):
        plain.train(mode), scaled.train(mode)
        assert torch.allclose(scaled.model(IMAGES), plain.model(IMAGES) / 2, atol=1e-6)
    assert set(scaled.model.public_state_dict()) == {"prompt_learner.ctx", "adapter.weight"}
    scaled.train()
    scaled.backward(scaled.losses(IMAGES, LABELS))
    assert all(p.grad is not None for p in scaled.model.trained().parameters())
    # kept text features follow a change of the parts
    scaled.eval().model(IMAGES)
    with torch.no_grad():
        scaled.model.parts.weight.mul_(2)
    assert torch.allclose(scaled.model(IMAGES), plain.model(IMAGES), atol=1e-6)


def test_public_checkpoints_may_hold_only_a_submodule(tiny_clip):
    class Weight(Parts):
        prefix = "adapter."

        def __init__(self):
            super().__init__()
            self.fc = nn.Parameter(torch.ones(2))

    class Held(Mine):
        saves_submodule = "adapter"
        dead_weights = ("base_",)

        def setup(self, clip_model, classnames, dataset):
            self.model.parts = Weight()

        @staticmethod
        def point(node):
            return PromptSpec(M=0, N=0, beta=0, score="cosine")

    model = build(Held, tiny_clip).model
    layout = PublicLayout(model, submodule=True)
    assert set(model.public_state_dict()) == {"adapter.fc"} and set(layout.state_dict()) == {"fc"}
    for i, name in enumerate(("fc", "adapter.fc")):  # the sub-module, or the whole model
        dead = {"adapter.base_x": torch.ones(3), "base_y": torch.ones(4)}
        layout.load_state_dict({name: torch.full((2,), float(i)), **dead})
        assert model.parts.fc.tolist() == [i, i]
    with pytest.raises(UserError, match="The checkpoint has 'prompt_learner.fc', which"):
        layout.load_state_dict({"prompt_learner.fc": torch.ones(2)})


def test_parts_may_change_the_logits(tiny_clip):
    """Training, evaluation, features of another model and an exported program use the parts."""

    class Head(Parts):
        def __init__(self, dim):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(len(NAMES), dim))

        def logits(self, logits, image, text, scale):
            own = scale * image.z[:, 0] @ self.weight.T
            return logits + own + text.raw.norm(dim=-1)[0] - text.h.norm(dim=-1)[0]

    class Headed(Mine):
        def setup(self, clip_model, classnames, dataset):
            self.model.parts = Head(clip_model.text_projection.shape[1])

    method = build(Headed, tiny_clip)
    model, plain = method.model, build(Mine, tiny_clip).model
    plain.prompt_learner = model.prompt_learner
    model.logit_bias = plain.logit_bias = torch.tensor(-3.0)  # of a CLIP with a sigmoid loss
    output = method.train().model.output(IMAGES)
    z, text = output.image.z[:, 0], output.text
    added = model.logit_scale * z @ model.parts.weight.T + text.raw.norm(dim=-1)[0] - 1
    expected = plain(IMAGES) + added
    torch.testing.assert_close(output.logits, expected)
    method.backward(method.terms(output, Batch([IMAGES], LABELS)))
    assert model.parts.weight.grad.norm() > 0
    method.eval()
    for found in (model(IMAGES), model.logits(output.image), Program(model)(IMAGES)):
        torch.testing.assert_close(found, expected.detach())


def test_own_state_has_only_the_buffers_of_the_method(tiny_clip):
    class Counting(Mine):
        def setup(self, clip_model, classnames, dataset):
            self.register_buffer("seen", torch.zeros(()))
            self.teacher = Teacher(clip_model, classnames, ["a photo of a {}."])

    method = build(Counting, tiny_clip)
    method.seen += 3
    other = build(Counting, tiny_clip)
    other.load_own_state(method.own_state())
    assert set(method.own_state()) == {"seen"} and other.seen == 3
    with pytest.raises(UserError, match="it is of another method"):
        build(Mine, tiny_clip).load_own_state(method.own_state())


def test_views(tiny_clip):
    class TwoViews(Mine):
        views = 2

    method = build(TwoViews, tiny_clip).train()
    assert method.losses([IMAGES, IMAGES], LABELS)["loss"].isfinite()
    with pytest.raises(UserError, match="gets 1: set DATALOADER.K_TRANSFORMS 2"):
        method.losses(IMAGES, LABELS)
    assert Batch([IMAGES, LABELS], LABELS).images is IMAGES


def test_the_teacher_is_zero_shot_clip(tiny_clip):
    zero_shot = build_method("ZeroshotCLIP", {}, tiny_clip, NAMES).eval()
    teacher = Teacher(tiny_clip, NAMES, ["a photo of a {}."])
    logits = teacher.logits(teacher.z(IMAGES))
    assert torch.allclose(logits, zero_shot.model(IMAGES), atol=1e-4)
    assert not teacher.h.requires_grad and teacher.h is teacher.h
    several = Teacher(tiny_clip, NAMES, ["a photo of a {}.", "a photo of the {}."])
    assert not torch.allclose(several.h, teacher.h, atol=1e-4)


def test_a_name_is_registered_once():
    try:
        register(Mine)
        with pytest.raises(UserError, match="has registered that name: rename the class"):
            register(type("Mine", (Method,), {"__module__": "elsewhere"}))
        assert register(Mine) is Mine
    finally:
        del METHODS["Mine"]


@pytest.mark.parametrize(
    ("method", "node", "sentence"),
    [
        ("MaPLe", {"CTX_INIT": True}, "TRAINER.MAPLE.CTX_INIT is True but must be words"),
        ("CoOp", {"CTX_INIT": 5}, "TRAINER.COOP.CTX_INIT is 5 but must be words"),
        ("CoOp", {"CTX_INIT": ["a", "b"]}, "CTX_INIT has 2 templates but this method takes one"),
        ("VPT", {"CTX_INIT": ["a", "b"]}, "CTX_INIT has 2 templates but this method takes one"),
        ("ALIGN", {"CTX_INIT": ["a photo", 1]}, "but must be words"),
        ("ALIGN", {"M": 2.5}, "TRAINER.ALIGN.M is 2.5 but must be a whole number"),
        ("ALIGN", {"BETA": "much"}, "TRAINER.ALIGN.BETA is 'much' but must be a number"),
        ("ALIGN", {"FORM": "cosine"}, "FORM is 'cosine' but must be paper or released"),
        ("ALIGN", {"FORM": "released", "BETA": 0.5}, "BETA is 0.5 but must be 0 or 1 with FORM"),
        ("ALIGN", {"FORM": "released", "BETA_FORM": "convex"}, "BETA_FORM has no effect with FORM"),
        ("PLOT", {"CTX_INIT": 5}, "TRAINER.PLOT.CTX_INIT is 5 but must be words"),
        ("ProGrad", {"T": True}, "LOSS.T is True but must be a number"),
        ("CoOp", {"PREC": 16}, "TRAINER.COOP.PREC is 16 but must be a word"),
        ("CoOp", {"CSC": "yes"}, "TRAINER.COOP.CSC is 'yes' but must be True or False"),
    ],
)
def test_values_of_the_wrong_kind(method, node, sentence):
    with pytest.raises(UserError, match=sentence):
        prompt_spec(method, node)


def test_a_method_that_trains_nothing(tmp_path, capsys):
    class Idle(Method):
        node = "IDLE"

        @dataclass(frozen=True)
        class Settings(Method.Settings):
            PREC: str = "fp32"

        @staticmethod
        def point(node):
            return PromptSpec(M=0, N=0, beta=0, score="cosine")

    register(Idle)
    try:
        assert tiny.run(tmp_path, "Idle") == 2
    finally:
        del METHODS["Idle"]
    assert "Idle trains nothing: give its point prompts" in capsys.readouterr().err


def test_a_point_that_contradicts_itself(tmp_path, capsys):
    class Torn(Mine):
        node = "TORN"

        @staticmethod
        def point(node):
            return PromptSpec(M=2, N=2, beta=1, coupling="none", templates=("X X", "X X"))

    register(Torn)
    try:
        assert tiny.run(tmp_path, "Torn") == 2
    finally:
        del METHODS["Torn"]
    assert "COUPLING is 'none' but M = 2 and N = 2" in capsys.readouterr().err
