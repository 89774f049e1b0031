"""Whether the two numbers of `advise` are true, on labels that are drawn from two collections."""

import os
import time

import numpy as np
import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY
from paths import ROOT
from safetensors.torch import load_file

import datasets  # noqa: F401 (registers them)
from trainers.prompting.advice import fits, folds
from trainers.prompting.advice.choice import choose, choose_classes
from trainers.prompting.advice.encode import TEMPLATE
from trainers.prompting.advice.statement import Statement
from trainers.prompting.backbones import load_clip
from trainers.prompting.building.encoding import encode_images, plain_encoder
from trainers.prompting.building.transforms import Plain
from trainers.prompting.images.image_files import read_single
from trainers.prompting.teacher import Teacher


def emoji():
    """Return emoji in two styles, their labels and series, and the motifs, which are marked."""
    sets = [DATASET_REGISTRY.get(name).look("")[1] for name in ("Emoji", "EmojiHue")]
    items = [item for parts in sets for part in parts for item in part]
    clip_model = load_clip("emoji")
    method, images = plain_encoder(clip_model)
    transform = Plain(images)
    read = lambda item: transform(read_single(item.impath))  # noqa: E731
    z = torch.cat([z for _, _, z in encode_images(method, items, read, 100)])
    names = [name for _, name in sorted({(item.label, item.classname) for item in items})]
    scale = float(clip_model.logit_scale.detach().exp())
    space = fits.Space("emoji", z, Teacher(clip_model, names, [TEMPLATE]).raw, scale)
    y = np.array([item.label for item in items])
    motif = np.unique([os.path.basename(x.impath) for x in items], return_inverse=True)[1]
    return space, y, folds.join(motif, folds.near_copies([space], np.arange(len(y)), y)), motif


def groceries():
    """Return photographs, their labels and series, none of which is marked."""
    kept = load_file(ROOT / "assets" / "grocery_emoji.safetensors")
    text, y = kept["text/average"].float(), kept["label"].numpy()
    space = fits.Space("emoji", kept["image_features"].float(), text, float(kept["logit_scale"]))
    return space, y, folds.near_copies([space], np.arange(len(y)), y), None


def draw(y, series, m, rng):
    """Return m rows of each class, at random or in whole series, if these are not None."""
    rows = []
    for k in range(y.max() + 1):
        own = rng.permutation(np.flatnonzero(y == k))
        if series is not None:
            own = own[rng.permutation(series.max() + 1)[series[own]].argsort(kind="stable")]
        rows.append(own[:m])
    return np.concatenate(rows)


def true_share(choice, space, y, rows, series=None):
    """Return the mean over classes of what is right of all other rows, or of other series, once."""
    rest, best = np.setdiff1d(np.arange(len(y)), rows), choice.best
    weights = np.ones(len(y))
    if series is not None:
        rest = rest[~np.isin(series[rest], series[rows])]
        weights = 1 / np.bincount(series[rest], minlength=series.max() + 1).clip(1)[series]
    logits = space.span(rows).logits(best.method, rows, y[rows], rest, **best.settings)
    hits, of, w = logits.argmax(1) == y[rest], y[rest], weights[rest]
    return np.mean([np.average(hits[of == k], weights=w[of == k]) for k in np.unique(of)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "collection, draws", [(emoji, {4: 10, 8: 10}), (groceries, {4: 20, 8: 10, 16: 10})]
)
def test_both_numbers_are_true(collection, draws, monkeypatch):
    """The mean absolute error is at most 5 points; docs/advise.md has the table that is printed.

    It is over 7 where folds do not divide series for the first number, or do for the second. On
    groceries, that of series of four labels is 5.4 or 3.9 in ten draws, by chance.
    """
    monkeypatch.setitem(fits.SETTINGS, "LPPlusPlus", {"SEARCH_HP": False, "TRAIN_EPOCH": 5})
    monkeypatch.setattr(fits, "EPOCHS", 30)
    space, y, series, marked = collection()
    for of in (None, series):
        for m in draws:
            pairs, begun = [], time.process_time()
            for seed in range(draws[m]):
                rows = draw(y, of, m, np.random.default_rng(seed))
                given = np.full(len(y), -1)
                given[rows] = y[rows]
                said = Statement(choose([space], given, marked))
                number = said.accuracy if of is None else said.of_others
                pairs.append((number, true_share(said.choice, space, y, rows, of)))
            said, true = 100 * np.array(pairs).T
            print(
                f"{collection.__name__}, {'random' if of is None else 'series'}, {m} a class: "
                f"{said.mean():.1f}/{true.mean():.1f}, signed {(said - true).mean():+.1f}, "
                f"absolute {abs(said - true).mean():.1f}, {time.process_time() - begun:.0f} s"
            )
            assert abs(said - true).mean() <= 5


@pytest.mark.slow
@pytest.mark.parametrize("m", [4, 8])
def test_the_better_side_is_taken_where_a_class_has_no_label(m, monkeypatch):
    """On groceries, within 2 points: CLAP for all classes, or others for those with labels."""
    monkeypatch.setitem(fits.SETTINGS, "LPPlusPlus", {"SEARCH_HP": False, "TRAIN_EPOCH": 5})
    monkeypatch.setattr(fits, "EPOCHS", 30)
    space, y, _, _ = groceries()
    rows = draw(y, None, m, np.random.default_rng(0))
    rows = rows[y[rows] != 7]
    given = np.full(len(y), -1)
    given[rows] = y[rows]
    rest = np.setdiff1d(np.arange(len(y)), rows)
    found, kept = choose_classes([space], given)
    few = fits.Space("emoji", space.images, space.text[kept], space.scale)
    labels, best = np.searchsorted(kept, y[rows]), found.best
    taken = few.logits(best.method, rows, labels, rest, **best.settings).argmax(1)
    clap = space.logits("CLAP", rows, y[rows], rest).argmax(1)
    right = [(kept[taken] == y[rest]).mean(), (clap == y[rest]).mean()]
    print(f"{m} labels a class, one without: {best.method} {right[0]:.3f}, CLAP {right[1]:.3f}")
    assert right[0] >= max(right) - 0.02 and len(kept) == 42
