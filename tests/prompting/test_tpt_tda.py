"""TPT and TDA: every number of their golden files, batches against single images, mistakes."""

import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from golden_files import predicted

from trainers.prompting import build_method, word_embeddings

NAMES = ["forest", "sea", "road"]


def near(a, b, tolerance=1e-5):
    return (a - b).abs().max() < tolerance * max(1, b.abs().max())


def features(method, views):
    """Return CLIP's features of the plain views (B, D) and normalised ones of all (B, V, D)."""
    found = torch.stack([method.clip_features(view) for view in views], 1)
    return found[:, 0], F.normalize(found, dim=-1)


# ------------------------------------------------------------------ TPT


@pytest.mark.parametrize("name", ["tpt", "tpt_cocoop"])
def test_a_step_of_tpt(of, name):
    golden, method = of(name)
    tensors, views = golden.tensors, golden.test_images
    plain, z = features(method, views)
    c0 = method.initial(plain).detach().requires_grad_()
    if name == "tpt":  # in the other file `start/` is the context after the step, too
        assert torch.equal(c0[1], golden.params["prompt_learner.ctx"])
    h = method.text_encoder([c0]).h
    logits = method.logit_scale * torch.einsum("bvd,bkd->bvk", z, h)
    assert near(logits, tensors["logits_views"])
    H, kept = method.entropies(z, h)
    assert torch.equal(kept.sort().values, tensors["selected"].sort().values)
    assert near(H, tensors["loss/entropy"])
    (gradient,) = torch.autograd.grad(H.sum(), c0)
    (wanted,) = golden.part("grad/").values()
    assert (gradient - wanted).norm() < 1e-4 * wanted.norm()
    assert near(method.adapt_contexts(z, c0), next(iter(golden.part("adapted/").values())))
    assert near(method(tensors["image"]), tensors["logits_before"])
    assert near(method.losses(views, tensors["label"])["loss"], tensors["loss"])


def test_tpt_from_words_alone(of, tiny_clip):
    golden, _ = of("tpt")
    node = golden.meta["config"]
    method = build_method("TPT", node, tiny_clip, golden.meta["classnames"]).eval()
    views = golden.test_images
    assert near(method.predict(views).logits, golden.tensors["words/logits"])
    loss = method.losses(views, golden.tensors["label"])["loss"]
    assert near(loss, golden.tensors["words/loss/entropy"].mean())


@pytest.mark.parametrize("name", slow_but(["tpt", "tpt_cocoop"], "tpt"))
def test_images_are_adapted_together_as_alone(of, name, monkeypatch):
    golden, method = of(name, TTA_STEPS=3, LR=0.02)
    views = golden.test_images
    own = method.learned()
    before = {key: p.detach().clone() for key, p in own.items()}
    together = method.predict(views).logits
    alone = [method.predict([view[i : i + 1] for view in views]).logits for i in range(5)]
    assert near(together, torch.cat(alone))
    monkeypatch.setattr("trainers.prompting.methods.tpt.TEXTS", 13)  # two images at a time
    assert near(together, method.predict(views).logits)
    assert not near(together, method(views[0]), 1e-2)
    assert all(torch.equal(p, before[key]) and p.grad is None for key, p in own.items())


def test_tpt_learns_in_any_mode_of_gradients(of):
    golden, method = of("tpt")
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            logits = method.predict(golden.test_images).logits
        assert near(logits, golden.tensors["logits"]) and not logits.requires_grad


def test_tpt_starts_from_a_coop_or_a_cocoop(tiny_clip):
    for name, node in (("CoOp", {}), ("CoCoOp", {"COCOOP": True})):
        words = {"CTX_INIT": "a photo of a"}
        trained = build_method(name, words, tiny_clip, NAMES)
        torch.nn.init.normal_(trained.prompt_learner.ctx)
        bare = {
            key.removeprefix("prompt_learner."): value
            for key, value in trained.public_state_dict().items()
        }
        method = build_method("TPT", words | node, tiny_clip, NAMES)
        method.load_public_state_dict(bare)
        assert all(
            torch.equal(value, bare[key.partition(".")[2]])
            for key, value in method.public_state_dict().items()
        )


def test_words_and_kinds_of_views(tiny_clip):
    def made(dataset):
        node = {"CTX_INIT": "a photo of a", "N_CTX": 7, "BATCH_SIZE": 20}
        return build_method("TPT", node, tiny_clip, NAMES, dataset)

    method = made("EuroSAT")
    assert torch.equal(method.prompt_learner.ctx, word_embeddings(tiny_clip, "a photo of a"))
    assert (method.test_views, method.test_augmix, method.stream) == (20, True, False)
    assert not made("ImageNetV2").test_augmix
    free = build_method("TPT", {"N_CTX": 7}, tiny_clip, NAMES)
    assert free.prompt_learner.ctx.shape == (7, 128) and free.test_views == 64


# ------------------------------------------------------------------ TDA


def items(cache, classes):
    """Return keys, values, classes and entropies of a cache, in the order of the golden files."""
    found = [(y, e, row) for y in range(classes) for e, row in cache.items.get(y, [])]
    rows = [row for _, _, row in found]
    classes, entropies = (torch.tensor([item[i] for item in found]) for i in (0, 1))
    return cache.keys[rows], cache.values[rows], classes, entropies


@pytest.mark.parametrize("batch", [1, 7, 40])
def test_a_stream_and_its_caches(of, batch):
    golden, method = of("tda")
    tensors = golden.tensors
    logits = [method.predict(images).logits for images in tensors["stream/image"].split(batch)]
    assert near(torch.cat(logits), tensors["stream/logits"])
    for name in ("positive", "negative"):
        wanted = golden.part(f"{name}/")
        keys, values, classes, entropies = items(getattr(method, name), 6)
        assert torch.equal(classes, wanted["class"]) and near(entropies, wanted["entropy"])
        assert near(keys, wanted["key"])
        if name == "negative":
            p = wanted["prob"]
            assert torch.equal(values, ((p > 0.03) & (p < 1)).float())
        else:
            assert torch.equal(values, classes)
    assert near(method.predict(tensors["image"]).logits, tensors["logits"])
    assert near(method(tensors["stream/image"]), tensors["stream/zeroshot"])
    assert near(method.text().h[0], tensors["frozen/text_features"])


@pytest.mark.parametrize("other", ["positive", "negative"])
def test_one_cache_alone(of, other):
    alone = "positive" if other == "negative" else "negative"
    golden, method = of("tda", **{f"{other.upper()}_ENABLED": False})
    logits = method.predict(golden.tensors["stream/image"]).logits
    assert near(logits, golden.tensors[f"{alone}_only/stream/logits"])


def test_views_of_a_stream(of):
    golden, method = of("tda_views")
    output = method.predict(golden.test_images)
    assert near(output.logits, golden.tensors["stream/logits"])
    assert near(output.image.z[:, 0], golden.tensors["stream/features"])


def test_a_stream_is_forgotten(of):
    golden, method = of("tda")
    fresh = method.predict(golden.tensors["image"]).logits
    assert not near(predicted(method, golden), fresh, 1e-3)
    method.reset()
    assert torch.equal(method.predict(golden.tensors["image"]).logits, fresh)
    assert not method.own_state() and not method.learned()


def test_sentences_and_views_of_tda(tiny_clip):
    def made(dataset, **node):
        return build_method("TDA", node, tiny_clip, NAMES, dataset)

    sets = {"ImageNet": (7, 1), "ImageNetV2": (7, 64), "ImageNetSketch": (80, 64), "SUN397": (7, 1)}
    for dataset, (sentences, views) in sets.items():
        method = made(dataset)
        assert (len(method.teacher.sentences.rows), method.test_views) == (sentences, views)
        assert len({*method.teacher.sentences.rows}) == sentences
    assert made("EuroSAT").teacher.sentences.rows == ["a centered satellite photo of {}."]
    assert made("ImageNetV2", VIEWS=1).test_views == 1 and made("EuroSAT").stream
    assert made("EuroSAT").logit_scale == tiny_clip.logit_scale.exp()
    assert made("EuroSAT", SCALE=100.0).logit_scale == 100
