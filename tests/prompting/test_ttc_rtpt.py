"""TTC and R-TPT: every number of their golden files, noise and views, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from golden_files import near

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
