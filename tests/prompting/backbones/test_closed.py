"""CLIPs whose sides are closed: what runs on them, and what is refused with which sentence."""

import pytest
import torch
import torch.nn.functional as F
from models import settings, support_of
from torch import nn

from trainers.prompting import (
    Added,
    ImageEncoder,
    TextEncoder,
    UserError,
    build_method,
    word_embeddings,
    write_sentences,
)
from trainers.prompting.backbones.assemble import closed_clip
from trainers.prompting.backbones.closed import Closed
from trainers.prompting.backbones.family import Family, Tokenizer
from trainers.prompting.building import build
from trainers.prompting.method import METHODS
from trainers.prompting.running.precision import Precision

NAMES = ["cat", "dog", "snow field"]
SIZE, D, PAD = 16, 24, 0
EVERYWHERE = [
    "BoostAdapter", "CLAP", "CLIPAdapter", "CrossModal", "DPE", "GDA", "LPPlusPlus",
    "LinearProbe", "MTA", "TDA", "TPS", "TaskRes", "TipAdapter", "TipAdapterF", "TransCLIP",
    "SPARC", "StatA", "ZERO", "ZeroshotCLIP",
]  # fmt: skip


def encode(text):
    return [2 + sum(map(ord, word)) % 90 for word in text.split()]


class Text(nn.Module):
    """The mean over the words, with dropout and a BatchNorm, which must both stay as they are."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(100, D), nn.BatchNorm1d(D)
        self.drop = nn.Dropout(0.5)

    def forward(self, ids):
        real = (ids != PAD).float()
        mean = (self.embed(ids) * real[..., None]).sum(1) / real.sum(1, keepdim=True)
        return self.drop(self.norm(mean)), ids  # a CoCa returns more than the feature


@pytest.fixture
def both():
    torch.manual_seed(0)
    image = nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Flatten(), nn.Dropout(0.5),
        nn.Linear(8 * 16, D),
    )  # fmt: skip
    family = Family(Tokenizer(encode, str, None, 1, PAD), (0.5,) * 3, (0.5,) * 3, "bicubic")
    return closed_clip(Closed(image, SIZE), Closed(Text()), D, family, 12, 20.0, -3.0)


def images(n=6):
    return torch.randn(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_logits_are_those_of_the_two_modules(both):
    texts = [f"a photo of a {name}." for name in NAMES]
    ids = [[*encode(text), 1] for text in texts]
    h = both.text.inner(torch.tensor([row + [PAD] * (12 - len(row)) for row in ids]))[0]
    wanted = 20 * F.normalize(both.visual.inner(images())) @ F.normalize(h).T - 3
    method = build_method("ZeroshotCLIP", {}, both, NAMES)
    torch.testing.assert_close(method(images()), wanted)


def test_every_method_runs_or_is_refused_in_one_sentence(both, monkeypatch):
    ran = []
    monkeypatch.setattr(build, "methods_on", lambda clip_model: {})  # for time
    for name, kind in METHODS.items():
        if not kind.__module__.startswith("trainers."):
            continue
        node, support = settings(name), support_of(name, NAMES, SIZE)
        before = {key: value.clone() for key, value in both.state_dict().items()}
        try:
            method = build_method(name, node, both, NAMES, support=support).train()
        except UserError as error:
            assert "side of this backbone is closed" in str(error) and "\n" not in str(error)
            continue
        ran.append(name)
        if kind.trains:
            method.backward(method.losses(images(3), torch.tensor([0, 1, 2])))
            assert all(p.grad.isfinite().all() for p in method.learned().values()), name
        assert method.eval()(images()).isfinite().all()
        now = both.state_dict()
        assert all(torch.equal(before[key], now[key]) for key in before), name
    assert set(EVERYWHERE) <= set(ran)
    monkeypatch.undo()
    with pytest.raises(UserError, match="or one of AWT, BoostAdapter, CLAP, .*ZeroshotCLIP$"):
        build_method("CoOp", {}, both, NAMES)


def test_nothing_is_put_into_a_closed_side(both):
    sentences = write_sentences(both, ["a photo of a {}."], NAMES)
    text, image = TextEncoder(both, sentences), ImageEncoder(both.visual)
    assert text().h.shape == (1, 3, D) and image(images()).z.shape == (6, 1, D)
    learned = [torch.zeros(1, 2, D)]
    for put in (
        lambda: text(learned), lambda: text(added={0: Added()}), lambda: text(inserted=learned[0]),
        lambda: TextEncoder(both, sentences, [[range(1, 2)] * 3]),
        lambda: write_sentences(both, ["X X {}."], NAMES, 2), lambda: word_embeddings(both, "a"),
    ):  # fmt: skip
        with pytest.raises(UserError, match="but the text side of this backbone is closed"):
            put()
    for put in (
        lambda: image(images(), learned), lambda: image(images(), added={0: Added()}),
        lambda: ImageEncoder(both.visual, patches=True),
    ):  # fmt: skip
        with pytest.raises(UserError, match="but the image side of this backbone is closed"):
            put()


def test_a_text_projection_cannot_be_replaced(both, tmp_path):
    torch.save({"state_dict": {"weight": torch.zeros(D, D)}}, tmp_path / "base.pt")
    node = {"ENHANCED_BASE": str(tmp_path / "base.pt")}
    with pytest.raises(UserError, match="replaces the text projection, but the text side of this"):
        build_method("TaskRes", node, both, NAMES)


@pytest.mark.parametrize("name", ["fp32", "amp", "bf16", "fp16"])
def test_every_precision_keeps_the_weights(both, name):
    method = build_method("ZeroshotCLIP", {}, both, NAMES)
    wanted = method(images())
    precision = Precision(name, torch.device("cpu"))
    if name == "fp16":  # as on a GPU; here in bfloat16
        precision.name = name
    precision.place(method, both)
    method._text_cache.forget()
    with precision.autocast():
        found = method(images())
    assert both.visual.inner[0].weight.dtype == torch.float32
    torch.testing.assert_close(found.float(), wanted, atol=0.5, rtol=0)
    assert torch.equal(found, wanted) == (name == "fp32")


def test_images_of_another_size_are_refused(both):
    with pytest.raises(ValueError, match=r"must be \(B, 3, 16, 16\)"):
        build_method("ZeroshotCLIP", {}, both, NAMES)(torch.zeros(1, 3, 8, 8))
