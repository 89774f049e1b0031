"""MTA and ZERO: every number of their golden files, batches against single images, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import near

from trainers.prompting import Teacher, build_method
from trainers.prompting.sure_views import entropy, surest

NAMES = ["forest", "sea", "road"]


def features(method, golden):
    views = torch.stack([method.clip_features(view) for view in golden.test_images], 1)
    return F.normalize(views, dim=-1), method.text().h[0]


def test_the_modes_of_mta(of):
    golden, method = of("mta")
    tensors = golden.tensors
    x, h = features(method, golden)
    assert near(x, tensors["features_views"], 1e-5) and near(h, tensors["frozen/text_features"])
    for rounds in range(1, 6):
        _, after = of("mta", MAX_ITER=rounds)
        m, y = after.modes(x, h)
        assert near(m, tensors["outer/mode"][:, rounds - 1], 1e-5)
        assert near(y, tensors["outer/inlierness"][:, rounds - 1], 2e-5)
    assert near(y, tensors["inlierness"], 2e-5) and near(m, tensors["mode"], 1e-5)
    output = method.predict(golden.test_images)
    assert near(output.logits, tensors["logits"]) and not output.logits.requires_grad


@pytest.mark.parametrize(
    ("form", "votes"), [("paper", "votes_right_tie_break"), ("released", "autocast/votes")]
)
def test_the_votes_of_zero(of, form, votes):
    golden, method = of("zero", FORM=form)
    tensors = golden.tensors
    found = method.predict(golden.test_images).logits
    assert near(found, tensors[votes], 1e-3 if form == "released" else 1e-9)
    if form == "paper":
        assert torch.equal(found.argmax(1), tensors["prediction"])
        x, h = features(method, golden)
        kept = surest(method.logit_scale * x @ h.T, method.settings.GAMMA)
        assert torch.equal(kept, tensors["selected"])
        method.logit_scale.fill_(100)
        assert torch.equal(method.votes(x @ h.T), tensors["scale100/votes"])


def test_the_released_form_rounds_cosines_and_logits(of):
    """The views kept are those of the public line, softmax(l / temp) with l in float16."""
    _, method = of("zero", FORM="released", GAMMA=0.3)
    method.logit_scale.fill_(100)
    cosines = 0.2 + 0.02 * torch.randn(100, 64, 6, generator=torch.Generator().manual_seed(0))
    found, half = method.votes(cosines), cosines.half()

    def votes(logits):
        order = entropy(logits).argsort(dim=-1, stable=True)[:, :19, None]
        return (half.float().take_along_dim(order, 1) / 2**-10).softmax(-1).sum(1)

    expected = votes((half / (1 / method.logit_scale)).float())
    best = expected.topk(2).values
    untied = best[:, 0] > best[:, 1]  # a tie adds a vote
    assert near(found[untied], expected[untied], 1e-4) and untied.sum() > 90
    other = votes(100 * half.float())
    assert not near(found[untied], other[untied], 1e-2), "rounding changes which are kept"


def test_ties_of_all_kinds(of):
    golden, _ = of("zero")
    cosines = golden.tensors["synthetic/cosines"]
    kept = golden.tensors["synthetic/selected"].shape[1]
    _, method = of("zero", GAMMA=(kept + 0.5) / cosines.shape[1])
    method.logit_scale.fill_(100)
    assert golden.tensors["synthetic/tie"].unique().tolist() == [0, 1, 2]
    votes = method.votes(cosines)
    assert torch.equal(votes, golden.tensors["synthetic/votes_right_tie_break"])


@pytest.mark.parametrize("name", ["mta", "zero"])
def test_images_together_as_alone(of, name):
    golden, method = of(name)
    views = golden.test_images
    together = method.predict(views).logits
    alone = [method.predict([view[i : i + 1] for view in views]).logits for i in range(10)]
    assert near(together, torch.cat(alone))
    assert not near(together, method(views[0]), 1e-2) and not method.own_state()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("", "a centered satellite photo of {}."), ("a photo of a", "a photo of a {}.")],
)
def test_their_sentences(tiny_clip, words, sentence):
    method = build_method("MTA", {"CTX_INIT": words}, tiny_clip, NAMES, "EuroSAT")
    assert near(method.text().h[0], Teacher(tiny_clip, NAMES, [sentence]).h, 1e-6)
