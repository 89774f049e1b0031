"""BoostAdapter and DPE: every number of their golden files, batches, gradients in a stream."""

import math

import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from golden_files import near

from trainers.prompting import build_method
from trainers.prompting.methods import boostadapter

NAMES = ["forest", "sea", "road"]
BOOST, DPE = "boostadapter_two_forms", "dpe_three_forms"


def predicted(method, views, size=24):
    """Return the outputs of a stream in batches of this size."""
    method.reset()
    parts = zip(*(view.split(size) for view in views), strict=True)
    return [method.predict(list(part)) for part in parts]


def items(cache):
    """Return classes, entropies and keys of a cache, ordered by both."""
    found = sorted((y, e, row) for y, own in cache.items.items() for e, row in own)
    y, e, rows = zip(*found, strict=True)
    return torch.tensor(y), torch.tensor(e), cache.keys[list(rows)]


def assert_same(cache, wanted):
    """Compare a cache with that of a file, which is in another order."""
    order = sorted(range(len(wanted["class"])), key=lambda i: (
        wanted["class"][i].item(), wanted["entropy"][i].item()))  # fmt: skip
    for found, key in zip(items(cache), ("class", "entropy", "key"), strict=True):
        assert near(found, wanted[key][order], 1e-4), key


# ------------------------------------------------------------------ BoostAdapter


@pytest.mark.parametrize(("form", "block"), [("plain", "ten/"), ("surest", "shift/")])
def test_a_stream_with_views_beside_the_cache(of, form, block):
    golden, method = of(BOOST, FORM=form)
    tensors, views = golden.tensors, golden.test_images
    for size in (24, 8):
        outputs = []
        method.reset()
        for i, images in enumerate(zip(*(view.split(size) for view in views), strict=True)):
            outputs.append(method.predict(list(images)))
            if (seen := size * (i + 1)) in (8, 24):
                assert_same(method.positive, golden.part(f"{block}after/{seen}/pos/"))
                assert_same(method.negative, golden.part(f"{block}after/{seen}/neg/"))
        logits = torch.cat([output.logits for output in outputs])
        assert near(logits, tensors[block + "logits"])
        assert torch.equal(logits.argmax(1), tensors[block + "logits"].argmax(1))
    assert near(
        torch.cat([output.image.z[:, 0] for output in outputs]), tensors[block + "features"]
    )
    plain = method(tensors["image"].float())
    if form == "plain":
        assert near(plain, tensors[block + "zeroshot"])
    assert near(method.text().h[0], tensors["frozen/text_features"], 1e-6)


def test_the_oldest_or_the_least_sure_leaves_the_negative_cache(of):
    golden, latest = of(BOOST)
    _, sure = of(BOOST, NEGATIVE_FIFO=False)
    logits = [predicted(method, golden.test_images)[0].logits for method in (latest, sure)]
    assert 0.1 < (logits[0] - logits[1]).abs().max() < 1  # 0.20 in the notes of the file
    (all_sure,) = {len(own) for own in sure.negative.items.values()}
    assert all_sure == 2


def test_views_take_part_for_one_turn(of):
    golden, method = of(BOOST)
    views = golden.test_images
    first = predicted(method, views)[0].logits
    assert torch.equal(predicted(method, views)[0].logits, first)
    assert method.positive.n <= 6 * 3 and not method.own_state()
    _, off = of(BOOST, POSITIVE_ENABLED=False, NEGATIVE_ENABLED=False)
    assert near(predicted(off, views)[0].logits, golden.tensors["ten/zeroshot"])


@pytest.mark.parametrize("more", [0, 1, 2])
def test_views_above_the_capacity_of_two_classes(more):
    """In each class, of its images and views, the C + DELTA of least entropy count."""
    x, C, beta = F.normalize(torch.randn(12, 6), dim=-1), 2, 3.0
    cache = boostadapter.Boosted(3, C, 6, masks=False)
    cache.more = more
    kept = [(0, 0.5), (1, 0.1), (0, 0.9), (1, 0.8), (2, 0.3)]
    for i, (y, e) in enumerate(kept):
        cache.insert(y, e, x[i], y)
    rows = [(0, 0.6), (1, 0.2), (0, 0.4), (1, 0.7), (1, 0.05), (0, 0.95)]
    views = boostadapter.OwnViews(x[5:11], torch.tensor([y for y, _ in rows]), rows)
    z, wanted = x[11], torch.zeros(3)
    for y in range(3):
        own = sorted((e, i) for i, (label, e) in enumerate(kept + rows) if label == y)
        for _, i in own[: C + more]:
            wanted[y] += torch.exp(-beta * (1 - z @ x[i]))
    for _ in range(2):  # the views are forgotten
        cache.views = iter([views])
        assert near(cache.likeness(z, beta), wanted, 1e-5)
    assert cache.n == len(kept)


def test_the_latest_images_of_a_class_replace_the_oldest():
    cache, x = boostadapter.Latest(2, 2, 3, masks=True), torch.randn(6, 3)
    masks = torch.rand(6, 2) > 0.5
    for i, y in enumerate([0, 0, 1, 0, 0, 0]):
        cache.insert(y, 1.0 - i / 10, x[i], masks[i])
    assert cache.n == 3 and [len(own) for own in cache.items.values()] == [2, 1]
    rows = [row for _, row in cache.items[0]]
    assert torch.equal(cache.keys[rows], x[4:6])
    assert torch.equal(cache.values[rows], masks[4:6].float())
    z = F.normalize(torch.randn(3), dim=0)
    near_z = torch.exp(2 * (x[[2, 4, 5]] @ z - 1))
    assert near(cache.likeness(z, 2.0), near_z @ masks[[2, 4, 5]].float(), 1e-5)


# ------------------------------------------------------------------ DPE


FORMS = [("plain", "ten/"), ("views", "shift/"), ("surest", "shift_a/")]


@pytest.mark.parametrize("case", slow_but(FORMS, FORMS[0]), ids=str)
def test_prototypes_that_evolve(of, case):
    form, block = case
    golden, method = of(DPE, FORM=form)
    tensors, views = golden.tensors, golden.test_images
    evolved, logits, steps = [], [], []
    residuals = method.residuals
    method.residuals = lambda *given: steps.append(residuals(*given)) or steps[-1]
    for i in range(24):
        logits.append(method.predict([view[i : i + 1] for view in views]).logits)
        evolved.append(method.j)
        after = golden.part(f"{block}after/{i + 1}/")
        if after:
            cache = golden.part(f"{block}after/{i + 1}/cache/")
            assert_same(method.cache, cache | {"entropy": cache["entropy"] * math.log2(6)})
            assert near(method.evolved, after["text_global"], 1e-5)
            r, u = steps[-1]
            assert (r - after["text_residual"]).norm() < 1e-3 * after["text_residual"].norm() + 1e-6
            assert (u - after["image_residual"]).norm() < 1e-3 * after[
                "image_residual"
            ].norm() + 1e-6
    assert evolved == tensors[block + "evolved"].tolist()
    assert near(torch.cat(logits), tensors[block + "logits"], 1e-2)
    assert torch.equal(torch.cat(logits).argmax(1), tensors[block + "logits"].argmax(1))
    del method.residuals
    assert near(predicted(method, views)[0].logits, torch.cat(logits), 1e-4)
    assert near(method.text().h[0], tensors["frozen/text_features"], 1e-6)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_dpe_learns_in_any_mode_of_gradients(of, mode):
    golden, method = of(DPE)
    with mode():
        logits = predicted(method, golden.test_images, 12)
    logits = torch.cat([output.logits for output in logits])
    assert near(logits, golden.tensors["logits_eval"], 1e-2) and not logits.requires_grad


def test_settings_of_the_public_code(tiny_clip):
    def built(name, dataset, **node):
        return build_method(name, node, tiny_clip, NAMES, dataset)

    forms = {"EuroSAT": "plain", "ImageNet": "views", "ImageNetR": "views", "ImageNetA": "surest"}
    for dataset, form in forms.items():
        dpe, boost = built("DPE", dataset), built("BoostAdapter", dataset)
        assert (dpe.form, dpe.test_views) == (form, 1 if form == "plain" else 64)
        variant = dataset in ("ImageNetA", "ImageNetR")
        assert (boost.form, boost.test_views) == ("surest" if variant else "plain", 64)
    assert dpe.test_augmix and not boost.test_augmix and dpe.stream and boost.stream
    assert built("DPE", "EuroSAT").takes == ("test stream",)
    texts = {"*": ["one {}.", "two {}."]}
    told = built("DPE", "EuroSAT", SENTENCES=texts)
    assert told.takes == ("test stream", "sentences")
    assert not near(told.text().h, built("DPE", "EuroSAT").text().h, 1e-2)
