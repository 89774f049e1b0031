"""Attacks on images, and methods that defend (TTC, R-TPT), beside their golden files."""

import json
from copy import deepcopy

import golden_files
import models
import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from golden_files import near

from trainers.prompting import build_method, robustness
from trainers.prompting.capabilities.at_test_time import adapts
from trainers.prompting.method import METHODS
from trainers.prompting.robustness import to_images, to_pixels
from trainers.prompting.transport.solver import Sinkhorn

NAMES = models.NAMES[:2]
QUICK = ("ALIGN", "CoCoOp", "HiCroPL", "ProLIP", "TPT", "ZeroshotCLIP")


@pytest.mark.parametrize("name", slow_but([n for n in METHODS if n != "RAM"], *QUICK))
def test_gradients_reach_the_pixels(tiny_clip, name):
    """In a direction that no part of the gradient is orthogonal to, within 1% of a difference."""
    node = models.settings(name) | ({"C": 1e-3} if name == "LinearProbe" else {})
    support = models.support_of(name, NAMES)
    method = build_method(name, node, tiny_clip, NAMES, "EuroSAT", support).eval()
    x = models.images(1)

    def loss(images):
        return F.cross_entropy(method(images).double(), torch.tensor([0]))

    images = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(images), images)
    step = 0.05 * (F.normalize(gradient.flatten(), dim=0) + F.normalize(x.flatten(), dim=0))
    step = step.view_as(x)
    with torch.no_grad():
        difference = (loss(x + step) - loss(x - step)) / 2
    assert float((gradient * step).sum()) == pytest.approx(float(difference), rel=0.01)


ONE_BLOCK = {"DEPTH_VISION": [1], "DEPTH_TEXT": [1]}
BY_PLANS = {"ALIGN": {"N": 2, "DEPTH": 3}, "PLOT": {"N": 2}, "RAM": ONE_BLOCK}


@pytest.mark.parametrize(("name", "node"), BY_PLANS.items())
def test_the_gradient_to_the_image_is_that_with_constant_plans(tiny_clip, monkeypatch, name, node):
    """In float64 it is the difference in any direction, if the plans stay; if they move, it is not.

    What else is left out would be seen. CLIP's normalisation and the token level take float32.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(type(tiny_clip.visual.ln_pre), "forward", torch.nn.LayerNorm.forward)
    torch.manual_seed(0)
    clip = deepcopy(tiny_clip).double()
    method = build_method(name, node, clip, NAMES).eval().double()
    x, solve, plans = models.images(1).double(), Sinkhorn.__call__, []

    def loss(images, call=solve):
        monkeypatch.setattr(Sinkhorn, "__call__", call)
        return F.cross_entropy(method(images), torch.tensor([0]))

    def keep(solver, cost, a=None, b=None):
        plans.append(solve(solver, cost, a, b))
        return plans[-1]

    def held():
        kept = iter(plans)

        def call(solver, cost, a=None, b=None):
            plan = next(kept).plan
            return plans[0]._replace(plan=plan, distance=(plan * cost).sum((-2, -1)))

        return call

    images = x.clone().requires_grad_()
    (own,) = torch.autograd.grad(loss(images), images)
    with torch.no_grad():
        loss(x, keep)
        for seed in range(3):
            step = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
            step *= 1e-4 / step.norm()
            along = float((own * step).sum())
            fixed = float(loss(x + step, held()) - loss(x - step, held())) / 2
            assert along == pytest.approx(fixed, rel=1e-4)
            moved = float(loss(x + step) - loss(x - step)) / 2
            assert along != pytest.approx(moved, rel=1e-3)


# ------------------------------------------------------------------ the golden files


def same(found, expected, share):
    """Say if at least this share of the pixels is the same."""
    return ((found - expected).abs() < 1e-5).float().mean() >= share


@pytest.mark.parametrize("name", slow_but(["zeroshot", "coop", "maple"], "zeroshot"))
def test_attacked_images_of_the_public_code(of, name):
    golden, method = of(f"attack_{name}_eps4")
    x, y = golden.tensors["image"], golden.tensors["label"]
    eps, alpha = (float(golden.meta[key]) for key in ("eps", "alpha"))
    start = golden.tensors["start"].clone().requires_grad_()
    with robustness.freeze(method):
        loss = robustness.cross_entropy(method(to_images(method, start)), y)
        g = robustness.gradient(loss, start)
    wanted = golden.tensors["start_grad"]
    assert (g - wanted).norm() < 1e-4 * wanted.norm()
    for steps, share, limit in ((1, 1, 1e-4), (3, 0.998, 5e-3), (10, 0.995, 2e-2)):
        found = robustness.pgd(method, x, y, eps, alpha, steps, start.detach())
        assert same(found, golden.tensors[f"adv/{steps}"], share)
        for images, most in ((found, limit), (golden.tensors[f"adv/{steps}"], 1e-4)):
            logits = method(to_images(method, images))
            assert golden_files.near(logits, golden.tensors[f"adv_logits/{steps}"], most)
    for block, loss in (("plain/", "ce"), ("cw/", "cw")):
        if f"{block}adv/10" in golden.tensors:
            found = robustness.pgd(method, x, y, eps, alpha, 10, loss=loss)
            assert same(found, golden.tensors[f"{block}adv/10"], 0.995)
    learned = [p for p in method.parameters() if p.requires_grad]
    assert bool(learned) == (name != "zeroshot") and not any(p.grad is not None for p in learned)


@pytest.mark.parametrize("text", ["onfly", "constant", "perturbed"])
def test_a_step_of_apt(of, text):
    golden, method = of("apt_three_forms")
    tensors, given = golden.tensors, json.loads(golden.meta["training"])
    size = (given[f"ATTACK_{key}"] for key in ("EPS", "ALPHA", "STEPS"))
    more = {"prompt_step": given["PALPHA"], "fixed": tensors["constant/text_features"]}
    x, y = tensors["image"], tensors["label"]
    adv = robustness.attack_step(method.train(), x, y, *size, text, tensors["delta0"], **more)
    terms = method.losses(to_images(method, adv), y)
    assert same(adv, tensors[f"{text}/adv"], 0.998) and method.training
    assert torch.equal(method.prompt_learner.ctx, tensors["param/prompt_learner.ctx"])
    assert terms["loss"].item() == pytest.approx(float(tensors[f"{text}/loss"]), abs=2e-3)
    method.backward(terms)
    wanted = tensors[f"{text}/grad/prompt_learner.ctx"]
    assert (method.prompt_learner.ctx.grad - wanted).norm() < 1e-3 * wanted.norm()


# ------------------------------------------------------------------ TTC-and-R-TPT


@pytest.mark.parametrize("side", ["clean", "attacked"])
def test_a_counterattack(of, side):
    golden, method = of("ttc_eps4")
    wanted, x = golden.part(f"{side}/"), golden.tensors["image" if side == "clean" else "adv"]
    logits = golden.tensors["logits" if side == "clean" else "adv_logits"]
    assert near(method(to_images(method, x)), logits)
    with torch.no_grad():
        d, tau = method.counterattack(x, wanted["delta0"])
    assert near(tau, wanted["tau"], 1e-5)
    assert ((d - wanted["delta"]).abs() < 1e-5).float().mean() > 0.998
    stays = tau >= golden.meta["config"]["TAU_THRES"]
    assert stays.any() and not stays.all() and near(d[stays], wanted["delta0"][stays], 1e-6)
    assert near(method(to_images(method, x + d)), wanted["logits_eval"], 2e-2)
    assert near(method.text().h[0], golden.tensors["text_features"], 1e-6)


def test_the_counterattack_is_added_to_the_pixels(of):
    golden, method = of("ttc_eps4", TTC_EPS=0.2, TTC_STEPSIZE=0.1)
    images = to_images(method, golden.tensors["image"])
    pixels, found = to_pixels(method, images), method.predict(images).logits
    d = method.counterattack(pixels)[0]
    assert near(found, method(to_images(method, pixels + d)), 1e-3)
    assert not near(found, method(to_images(method, pixels - d)), 1e-2)


def test_noise_depends_on_the_image_only(of):
    golden, method = of("ttc_eps4")
    images, state = to_images(method, golden.tensors["image"]), torch.get_rng_state()
    together = method.predict(images).logits
    with torch.inference_mode():
        alone = torch.cat([method.predict(image[None]).logits for image in images])
    assert near(alone, together, 1e-3) and torch.equal(state, torch.get_rng_state())
    assert not near(together, method(images), 1e-2) and not adapts(method)
    _, still = of("ttc_eps4", TTC_EPS=1e-6, TTC_STEPS=0)
    assert near(still.predict(images).logits, method(images), 1e-2)


def test_a_step_of_rtpt(of):
    golden, method = of("rtpt_words")
    tensors, views = golden.tensors, [to_images(method, x) for x in golden.test_images]
    z = F.normalize(torch.stack([method.clip_features(view) for view in views], 1), dim=-1)
    assert near(z, tensors["features_views"], 1e-6)
    assert near(method(to_images(method, tensors["image"])), tensors["logits"])
    c = method.initial(torch.zeros(5, 64)).detach().requires_grad_()
    loss, kept = method.objective(z, c, None, 0)
    assert near(loss, tensors["loss/entropy"][:, 0], 1e-5)
    assert torch.equal(kept.sort().values, tensors["selected"].sort().values)
    (found,) = torch.autograd.grad(loss.sum(), c)
    wanted = tensors["grads/prompt_learner.ctx"][:, 0]
    assert (found - wanted).norm() < 1e-3 * wanted.norm()
    assert near(method.adapt_contexts(z, c), tensors["adapted/prompt_learner.ctx"], 1e-4)
    assert near(method.weights(z), tensors["self_out/weight"], 1e-5)
    found = method.predict(views)
    assert near(found.logits, tensors["self_out/logits_eval"], 3e-4) and found.text.h.dim() == 3
