"""TTC and R-TPT: every number of their golden files, noise and views, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import near

from trainers.prompting import UserError, build_method
from trainers.prompting.robustness import to_images, to_pixels

NAMES = ["forest", "sea", "road"]


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
    assert not near(together, method(images), 1e-2) and not method.adapts
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


MISTAKES = [
    ("TTC", {"TTC_EPS": 0.0}, "TTC_EPS is 0.0 but must be positive"),
    ("TTC", {"TTC_EPS": 4.0}, "TTC_EPS is 4.0 but pixels go from 0 to 1"),
    ("TTC", {"TTC_STEPSIZE": -1.0}, "TTC_STEPSIZE is -1.0 but must be positive"),
    ("TTC", {"TTC_STEPS": -1}, "TTC_STEPS is -1 but must be 0 or more"),
    ("TTC", {"TAU_THRES": -1.0}, "TAU_THRES is -1.0 but must be 0 or more"),
    ("TTC", {"BETA": float("inf")}, "BETA is inf but must be 0 or more"),
    ("TTC", {"TEMPLATE": "a photo"}, "TEMPLATE is 'a photo' but must have one {}"),
    ("RTPT", {"NEIGHBORS": 0}, "NEIGHBORS is 0: at least 1 is needed"),
    ("RTPT", {"WEIGHT_TAU": 0.0}, "WEIGHT_TAU is 0.0 but must be positive"),
    ("RTPT", {"BATCH_SIZE": 20}, "compared with NEIGHBORS 20 others, but there are 20 views"),
]


@pytest.mark.parametrize(("name", "node", "sentence"), MISTAKES, ids=lambda x: str(x)[:40])
def test_mistakes(tiny_clip, name, node, sentence):
    with pytest.raises(UserError, match=sentence):
        build_method(name, node, tiny_clip, NAMES)


def test_what_cannot_be_classified(tiny_clip):
    rows = torch.zeros(2, 64)
    with pytest.raises(UserError, match="TTC changes pixels, so it takes images"):
        build_method("TTC", {}, tiny_clip, NAMES).eval().predict(rows)
    method = build_method("RTPT", {}, tiny_clip, NAMES).eval()
    with pytest.raises(UserError, match="but there are 12 views"):
        method.predict([torch.zeros(2, 3, 32, 32)] * 12)
