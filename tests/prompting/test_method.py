"""The hooks of a method, what is learned and saved, what is declared, and how mistakes end.

The file is long because each hook and each mistake in one is a small class.
"""

import copy
from dataclasses import dataclass

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from trainers.prompting import (
    ImageEncoder,
    Method,
    Teacher,
    TextEncoder,
    Unlabelled,
    UserError,
    register,
    write_sentences,
)
from trainers.prompting.checkpoint.public import Public
from trainers.prompting.checkpoint.state import PublicLayout
from trainers.prompting.losses import asymmetric, classification
from trainers.prompting.method import METHODS, Batch
from trainers.prompting.node import read_node
from trainers.prompting.prompts import Textual
from trainers.prompting.use.export import Program

NAMES = ["forest", "sea", "road"]
IMAGES, LABELS = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])


class Idle(Method):
    """Zero-shot CLIP."""

    node = "IDLE"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        PREC: str = "fp32"


class Mine(Method):
    """CoOp with two context tokens."""

    node = "MINE"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        N_CTX: int = 2
        PREC: str = "fp32"

    def encoders(self, clip_model, classnames, dataset):
        sentences = write_sentences(clip_model, ["X X"], classnames, 2)
        return TextEncoder(clip_model, sentences), ImageEncoder(clip_model.visual)

    def build(self, clip_model, classnames, dataset):
        self.prompt_learner = Textual(clip_model, ["X X"], 2, 1, single=True)

    def contexts(self):
        return self.prompt_learner()


def build(kind, clip_model, **node):
    return kind(read_node(kind, node), clip_model, NAMES)


def test_keys_of_a_node_are_those_of_the_settings():
    own = {"PREC": "fp32", "CALIBRATE": False}
    assert Mine.defaults == {"N_CTX": 2} | own
    found = vars(read_node(Mine, {"N_CTX": 3}, "Food101"))
    beside = {"dataset": "Food101", "sentences": None, "several": False}
    assert found == {"N_CTX": 3} | own | beside
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
            return {**terms, "loss": terms["twice"], "count": torch.tensor(3)}

    summed = build(Summed, tiny_clip).train().losses(IMAGES, LABELS)
    assert set(summed) == {"loss", "ce", "twice"}
    assert summed["loss"].item() == pytest.approx(3 * summed["ce"].item())
    named = build(Named, tiny_clip).train().losses(IMAGES, LABELS)
    assert named["loss"] == named["twice"] and named["count"] == 3


class Scaled(Mine):
    """A learned factor after the text encoder."""

    def build(self, clip_model, classnames, dataset):
        super().build(clip_model, classnames, dataset)
        self.factor = nn.Parameter(torch.tensor(0.5))

    def text_features(self, contexts):
        features = super().text_features(contexts)
        return features._replace(h=features.h * self.factor)


def test_what_follows_the_encoder_is_trained_saved_and_used(tiny_clip):
    torch.manual_seed(0)
    plain = build(Mine, tiny_clip)
    torch.manual_seed(0)
    scaled = build(Scaled, tiny_clip)
    for mode in (True, False):
        plain.train(mode), scaled.train(mode)
        assert torch.allclose(scaled(IMAGES), plain(IMAGES) / 2, atol=1e-6)
    assert set(scaled.public_state_dict()) == {"prompt_learner.ctx", "factor"}
    scaled.train()
    scaled.backward(scaled.losses(IMAGES, LABELS))
    assert all(p.grad is not None for p in scaled.learned().values())
    with torch.no_grad():  # kept text features follow the factor
        scaled.eval()(IMAGES)
        scaled.factor.mul_(2)
        assert torch.allclose(scaled(IMAGES), plain(IMAGES), atol=1e-6)


def test_public_checkpoints_may_hold_only_a_submodule(tiny_clip):
    class Held(Idle):
        public = Public(submodule="adapter", dead=("base_",))

        def build(self, clip_model, classnames, dataset):
            self.adapter = nn.Module()
            self.adapter.fc = nn.Parameter(torch.ones(2))

    method = build(Held, tiny_clip)
    layout = PublicLayout(method)
    assert set(method.public_state_dict()) == {"adapter.fc"} and set(layout.state_dict()) == {"fc"}
    for i, name in enumerate(("fc", "adapter.fc")):  # the sub-module, or the whole model
        dead = {"adapter.base_x": torch.ones(3), "base_y": torch.ones(4)}
        layout.load_state_dict({name: torch.full((2,), float(i)), **dead})
        assert method.adapter.fc.tolist() == [i, i]
    with pytest.raises(UserError, match="The checkpoint has 'prompt_learner.fc', which"):
        layout.load_state_dict({"prompt_learner.fc": torch.ones(2)})


def test_a_method_may_have_an_equation_of_its_own(tiny_clip):
    """Training, evaluation, features of another method and an exported program compute it."""

    class Headed(Mine):
        def build(self, clip_model, classnames, dataset):
            super().build(clip_model, classnames, dataset)
            self.head = nn.Parameter(torch.randn(len(NAMES), self.width))

        def logits(self, image, text):
            own = self.logit_scale * image.z[:, 0] @ self.head.T
            raw, h = (x.norm(dim=-1)[0] for x in (text.raw, text.h))
            return super().logits(image, text) + own + raw - h

    method, plain = build(Headed, tiny_clip), build(Mine, tiny_clip)
    plain.prompt_learner = method.prompt_learner
    method.logit_bias = plain.logit_bias = torch.tensor(-3.0)  # of a CLIP with a sigmoid loss
    output = method.train().output(IMAGES)
    z, text = output.image.z[:, 0], output.text
    added = method.logit_scale * z @ method.head.T + text.raw.norm(dim=-1)[0] - 1
    expected = plain(IMAGES) + added
    torch.testing.assert_close(output.logits, expected)
    method.backward(method.terms(output, Batch([IMAGES], LABELS)))
    assert method.head.grad.norm() > 0
    method.eval()
    found = method(IMAGES), method.from_features(output.image).logits, Program(method)(IMAGES)
    for logits in found:
        torch.testing.assert_close(logits, expected)


# ------------------------------------------------------------------ what is learned, and saved


TAKEN = {
    "module": (lambda self, model: setattr(self, "norm", model.ln_final), "norm.weight"),
    "tensor": (lambda self, model: setattr(self, "map", model.text_projection), "map"),
    "scale": (lambda self, model: setattr(self, "scale", model.logit_scale), "scale"),
    "thawed": (
        lambda self, model: model.visual.ln_post.requires_grad_(True),
        "visual.ln_post.weight",
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_clips_own_tensors_are_not_learned(tiny_clip, case):
    take, name = TAKEN[case]

    class Thief(Mine):
        def build(self, clip_model, classnames, dataset):
            super().build(clip_model, classnames, dataset)
            take(self, clip_model)

    with pytest.raises(UserError) as error:
        build(Thief, copy.deepcopy(tiny_clip))
    assert str(error.value) == (
        f"Thief would train '{name}', a parameter of CLIP itself: learn an addition to it instead "
        "(`blocks`)"
    )


def test_two_parameters_with_one_public_name_are_refused(tiny_clip):
    class Doubled(Scaled):
        def public_name(self, name):
            return "weight"

    with pytest.raises(UserError, match="Doubled has two parameters that checkpoints call weight"):
        build(Doubled, tiny_clip)


def test_own_state_has_only_the_buffers_of_the_method(tiny_clip):
    class Counting(Mine):
        def build(self, clip_model, classnames, dataset):
            super().build(clip_model, classnames, dataset)
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


NO_LABELS = {
    "shares": F.one_hot(LABELS, 3).float(),
    "columns": LABELS[:, None],
    "fewer": LABELS[:3],
    "none": LABELS[:0],
    "small numbers": LABELS.int(),
    "of several classes": F.one_hot(LABELS, 3),
}


@pytest.mark.parametrize("case", NO_LABELS)
def test_labels_are_a_number_of_each_image(tiny_clip, case):
    with pytest.raises(UserError, match=r"must be torch.int64 of \(4,\): give Mine the number"):
        build(Mine, tiny_clip).losses(IMAGES, NO_LABELS[case])


class Several(Mine):
    several = "ranks"


def build_several(kind, clip_model):
    return kind(read_node(kind, {}, several=True), clip_model, NAMES)


def test_several_labels_are_a_number_of_each_image_and_class(tiny_clip):
    method = build_several(Several, tiny_clip).train()
    labels = F.one_hot(LABELS, 3).to(torch.int8)
    loss = method.losses(IMAGES, labels)["loss"]
    assert loss == asymmetric(method.output(IMAGES).logits, labels).sum()
    for other in (LABELS, labels.long(), labels[:, :2]):
        with pytest.raises(
            UserError, match=r"must be torch.int8 of \(4, 3\): give Several 1, 0 or"
        ):
            method.losses(IMAGES, other)


@pytest.mark.parametrize("name", ["Mine", "Heir"])
def test_a_method_says_itself_that_it_takes_several_labels(tiny_clip, name):
    kind = Mine if name == "Mine" else type("Heir", (Several,), {})
    with pytest.raises(UserError, match=f"{name} takes one label an image, but here images have"):
        build_several(kind, tiny_clip)


def test_unknown_labels_have_no_loss_and_no_gradient():
    logits = torch.linspace(-3, 3, 6).view(2, 3).requires_grad_()
    labels = torch.tensor([[1, -1, 0], [-1, -1, 1]], dtype=torch.int8)
    known = labels >= 0
    whole = classification(logits, labels)
    assert torch.allclose(asymmetric(logits[known], labels[known]).sum(), whole)
    (gradient,) = torch.autograd.grad(whole, logits)
    assert torch.equal(gradient != 0, known)
    assert classification(logits, labels.fill_(-1)) == 0


def test_labels_of_unlabelled_images(tiny_clip):
    method = build(type("Sure", (Unlabelled, Mine), {}), tiny_clip)
    assert method.batch(IMAGES, torch.empty(0)).images is IMAGES
    with pytest.raises(UserError, match="Labels are torch.float32"):
        method.batch(IMAGES, torch.rand(4, 3))


def test_a_name_is_registered_once():
    register(Mine)
    with pytest.raises(UserError, match="has registered that name: rename the class"):
        register(type("Mine", (Method,), {"__module__": "elsewhere"}))
    assert register(Mine) is Mine


def test_a_method_that_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(METHODS, "Idle", Idle)
    assert tiny.run(tmp_path, "Idle") == 2
    assert "Idle trains nothing: give it prompts" in capsys.readouterr().err


DECLARED = {
    "trains": (
        False, "AWT BoostAdapter CTPT CrossModal DPE GDA LPPlusPlus LinearProbe MTA OTPT RTPT "
        "SPARC StatA TDA TPS TPT TTC TaIDPT TipAdapter TransCLIP ZERO ZeroshotCLIP",
    ),
    "several": (
        "decides", "ALIGN CoOp DualCoOp LinearProbe MaPLe PLOT"
    ),
    "needs_all_labels": (True, "RAM SPARC TipAdapter TipAdapterF"),
    "joint": (False, "AWT AWTFewShot GDA MTA RAM SPARC StatA TPS TransCLIP ZERO"),
    "stream": (True, "BoostAdapter DPE TDA"),
    "single": (False, "ALIGN MMP PLOT"),
    "trains_on_support": (True, "CLAP ProLIP"),
    "patches": (True, "PLOT"),
    "own_classes": (True, "GDA MMRL MMRLpp"),
    "test_augmix": (True, "DPE TDA"),
    "views": (2, "CoPrompt"),
    "support_passes": (1, "LPPlusPlus LinearProbe SPARC"),
    "class_bound": (
        True, "CLAP CrossModal LPPlusPlus LinearProbe SOTGLP SPARC TaskRes TipAdapter TipAdapterF",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_unusual_about_methods(name):
    value, methods = DECLARED[name]
    found = {own for own, kind in METHODS.items() if getattr(kind, name, None) is value}
    assert found & {*OWN} == {*methods.split()}


OWN = [name for name, kind in METHODS.items() if kind.__module__.startswith("trainers.prompting.")]
