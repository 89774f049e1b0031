"""Images with views: MTA, ZERO, TPS, C-TPT and O-TPT, beside their golden files."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import near

from trainers.prompting import Teacher, build_method, sure_views

NAMES = ["forest", "sea", "road"]


def features(golden, method):
    """Return normalised features of all views (B, V, D), and of texts."""
    views = torch.stack([method.clip_features(view) for view in golden.test_images], 1)
    return F.normalize(views, dim=-1), method.text().h[0]


def test_the_modes_of_mta(of):
    golden, method = of("mta")
    tensors = golden.tensors
    x, h = features(golden, method)
    assert near(x, tensors["features_views"], 1e-5) and near(h, tensors["frozen/text_features"])
    for rounds in range(1, 6):
        _, after = of("mta", MAX_ITER=rounds)
        m, y = after.modes(x, h)
        assert near(m, tensors["outer/mode"][:, rounds - 1], 1e-5)
        assert near(y, tensors["outer/inlierness"][:, rounds - 1], 2e-5)
    assert near(y, tensors["inlierness"], 2e-5) and near(m, tensors["mode"], 1e-5)
    output = method.predict(golden.test_images)
    assert near(output.logits, tensors["logits"]) and not output.logits.requires_grad
    assert output.image.z.shape[1] == 1  # of the plain view


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
        x, h = features(golden, method)
        kept = sure_views.surest(method.logit_scale * x @ h.T, method.settings.GAMMA)
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
        order = sure_views.entropy(logits).argsort(dim=-1, stable=True)[:, :19, None]
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


# ------------------------------------------------------------------ TPS


def test_the_texts_of_tps(of):
    golden, method = of("tps")
    tensors = golden.tensors
    assert near(method.w, tensors["embeds/text"], 1e-6)
    assert near(method.text().h[0], tensors["frozen/text_features"], 1e-6)
    _, plain = of("tps", WITH_TEMPLATES=False, WITH_CONCEPTS=False)
    assert near(plain.w, tensors["embeds/plain"], 1e-6)
    _, macro = of("tps", MACRO_POOLING=True)
    own = tensors["embeds/templates"]
    for k in range(6):
        every = torch.cat([own[k], tensors[f"embeds/concepts/{k}"]])
        assert near(macro.w[k], every.mean(0), 1e-6)
    assert method.takes == ("one test image", "sentences") and plain.takes == ("one test image",)


def test_a_step_of_tps(of):
    golden, method = of("tps")
    tensors, x, h = golden.tensors, *features(golden, method)
    r = torch.zeros(5, 6, 64, requires_grad=True)
    H = method.entropies(x, h, r)
    assert near(H, tensors["loss/entropy"], 1e-5)
    (gradient,) = torch.autograd.grad(H.sum(), r)
    wanted = tensors["grad/text_shifter.shift"]
    assert (gradient - wanted).norm() < 1e-3 * wanted.norm()
    assert near(method.shifts(x, h), tensors["adapted/text_shifter.shift"], 1e-5)
    assert near(method(tensors["image"]), tensors["logits_before"])


@pytest.mark.parametrize(
    ("block", "node"),
    [
        ("", {}),
        ("plain/", {"WITH_TEMPLATES": False, "WITH_CONCEPTS": False}),
        ("templates/", {"WITH_CONCEPTS": False}),
        ("shared/", {"PER_LABEL": False}),
    ],
)
def test_logits_of_tps(of, block, node, monkeypatch):
    golden, method = of("tps", **node)
    views = golden.test_images
    logits = method.predict(views).logits
    assert near(logits, golden.tensors[block + "logits"]) and not logits.requires_grad
    monkeypatch.setattr("trainers.prompting.methods.tps.ENTRIES", 800)  # two images at a time
    with torch.inference_mode():
        assert near(method.predict(views).logits, logits, 1e-5)


# ------------------------------------------------------------------ C-TPT


def test_a_step_of_ctpt(of):
    golden, method = of("ctpt")
    tensors, views, (x, _) = golden.tensors, golden.test_images, features(golden, method)
    c = method.initial(torch.zeros(5, 64)).detach().requires_grad_()
    h = method.text_encoder([c]).h
    assert near(h[0], tensors["text/before"], 1e-5)
    assert near(-method.term(h), tensors["dispersion/before"], 1e-5)
    assert near(-method.term(h), tensors["loss/dispersion"], 1e-5)
    loss, kept = method.objective(x, c, None, 0)
    assert near(method.entropies(x, h)[0], tensors["loss/entropy"], 1e-5)
    assert torch.equal(kept.sort().values, tensors["selected"].sort().values)
    (gradient,) = torch.autograd.grad(loss.sum(), c)
    wanted = tensors["grad/prompt_learner.ctx"]
    assert (gradient - wanted).norm() < 1e-3 * wanted.norm()
    assert near(loss.mean(), tensors["loss"])
    assert near(method.losses(views, tensors["label"])["loss"], tensors["loss"])
    assert near(method.adapt_contexts(x, c), tensors["adapted/prompt_learner.ctx"], 1e-4)
    after = method.text_encoder([tensors["adapted/prompt_learner.ctx"]]).h
    assert near(after, tensors["text/after"], 1e-5)


@pytest.mark.parametrize(
    ("block", "node"), [("", {}), ("two_step/", {"TWO_STEP": True}), ("tpt/", {"LAMBDA_TERM": 0.0})]
)
def test_logits_of_ctpt(of, block, node):
    golden, method = of("ctpt", **node)
    logits = method.predict(golden.test_images).logits
    assert near(logits, golden.tensors[block + "logits"])


def test_views_of_ctpt(tiny_clip):
    def augmix(dataset, **node):
        return build_method("CTPT", node, tiny_clip, NAMES, dataset).test_augmix

    assert augmix("EuroSAT") and not augmix("ImageNetA") and augmix("ImageNetA", I_AUGMIX=True)


# ------------------------------------------------------------------ O-TPT


def test_a_step_of_otpt(of):
    golden, method = of("otpt_lambda18")
    tensors, (x, _) = golden.tensors, features(golden, method)
    c = method.initial(torch.zeros(5, 64)).detach().requires_grad_()
    h = method.text_encoder([c]).h
    assert near(h[0], tensors["text/before"], 1e-5)
    assert near(method.term(h), tensors["loss/orthogonality_last"], 1e-5)
    assert near(method.entropies(x, h)[0], tensors["loss/entropy"][:, 0], 1e-5)
    loss, kept = method.objective(x, c, None, 0)
    assert torch.equal(kept.sort().values, tensors["selected"].sort().values)
    (gradient,) = torch.autograd.grad(loss.sum(), c)
    wanted = tensors["grads/prompt_learner.ctx"][:, 0]
    assert (gradient - wanted).norm() < 1e-3 * wanted.norm()
    adapted = method.adapt_contexts(x, c)
    assert near(adapted, tensors["adapted/prompt_learner.ctx"], 1e-4)
    assert near(method.text_encoder([adapted]).h, tensors["text/after"], 1e-4)
    _, paper = of("otpt_lambda18", TERM="frobenius")
    assert near(paper.term(h)[:1], tensors["paper/orthogonality"], 1e-5)
    _, plain = of("otpt_lambda18", LAMBDA_TERM=0.0)
    logits = plain.predict(golden.test_images).logits
    assert near(logits, tensors["tpt/logits_eval"], 3e-4)


def test_otpt_is_a_point_of_ctpt(of, tiny_clip):
    golden, method = of("otpt_lambda18")
    names, views = golden.meta["classnames"], golden.test_images
    same = build_method("CTPT", golden.meta["config"], tiny_clip, names, "EuroSAT").eval()
    assert torch.equal(same.predict(views).logits, method.predict(views).logits)
    assert (method.settings.TERM, type(method).defaults["LAMBDA_TERM"]) == ("released", 18)
    many = F.normalize(torch.randn(1, 2000, 2), dim=-1)  # (K, K, K) would be 32 GB
    assert method.term(many).isfinite().all()
