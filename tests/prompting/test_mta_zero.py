"""MTA and ZERO: every number of their golden files, batches against single images, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import near

from trainers.prompting import Teacher, UserError, build_method
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


MISTAKES = [
    ("MTA", {"BATCH_SIZE": 4}, "The nearest 0.3 of the other 3 views of an image are no view"),
    ("MTA", {"BATCH_SIZE": 999_999}, "An image has 999,999 views: lower BATCH_SIZE, to 10,000"),
    ("MTA", {"LAMBDA_Y": 0.0}, "LAMBDA_Y is 0.0 but must be positive"),
    ("MTA", {"LAMBDA_Q": -1.0}, "LAMBDA_Q is -1.0 but must be 0 or more"),
    ("MTA", {"MAX_ITER": 0}, "MAX_ITER is 0: at least 1 is needed"),
    ("MTA", {"BANDWIDTH_P": 1.5}, "BANDWIDTH_P is 1.5 but must be above 0, and 1 or less"),
    ("MTA", {"CTX_INIT": "a\tb"}, "CTX_INIT has 2 templates"),
    ("ZERO", {"GAMMA": 1.0}, "GAMMA is 1.0 but must be below 1: other views break ties"),
    ("ZERO", {"GAMMA": 0.01}, "surest 0.01 of 64 views of an image is no view: raise NUM_VIEWS"),
    ("ZERO", {"FORM": "half"}, "FORM is 'half' but must be one of paper, released"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "node", "sentence"), MISTAKES, ids=lambda x: str(x)[:50])
def test_mistakes(tiny_clip, name, node, sentence):
    with pytest.raises(UserError, match=sentence):
        build_method(name, node, tiny_clip, NAMES)


@pytest.mark.parametrize("name", ["MTA", "ZERO"])
def test_too_few_views(tiny_clip, name):
    method = build_method(name, {}, tiny_clip, NAMES).eval()
    with pytest.raises(UserError, match="of an image (is|are) no view"):
        method.predict(torch.zeros(2, 3, 32, 32))
