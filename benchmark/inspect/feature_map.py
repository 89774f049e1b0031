"""Draw the features of a run's test images in two dimensions, for `visualize --map`."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainers.prompting.errors import need
from trainers.prompting.use.commands.predict import predict_files

from ..cli import write_output

BATCH = 32
PERPLEXITY = 30  # of scikit-learn
FEWEST = 5  # images; fewer have no neighbourhoods
NAMED = 60  # classes at most whose names are written


class Features(NamedTuple):
    """Features (n, D) of images, with the classes that they show and get, (n,)."""

    z: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray


def choose(items: list, most: int, seed: int) -> list:
    """Return at most so many test images, drawn from the seed, in their order."""
    if len(items) <= most:
        return items
    index = np.random.default_rng(seed).choice(len(items), most, replace=False)
    return [items[i] for i in sorted(index)]


def features_of(run: Any, items: list) -> Features:
    """Return the features of images, normalised; under several visual prompts, their mean."""
    failed: list[Path] = []

    def answer(paths, output):
        z, best = output.image.z.mean(1), output.logits.argmax(1)
        yield from zip(map(str, paths), zip(z.cpu(), best.tolist(), strict=True), strict=True)

    rows = [row for _, row in predict_files(run, paths_of(items), BATCH, answer, failed)]
    unread = {*failed}
    labels = [item.label for item in items if Path(item.impath) not in unread]
    z, predicted = zip(*rows, strict=True) if rows else ((), ())
    need(len(rows) >= FEWEST, f"A map needs {FEWEST} test images, but {len(rows)} can be read")
    return Features(np.stack(z), np.array(labels), np.array(predicted))


def paths_of(items: list) -> list[Path]:
    """Return the files of images."""
    return [Path(item.impath) for item in items]


def two_dimensions(z: np.ndarray, seed: int) -> np.ndarray:
    """Return places (n, 2) of features (n, D), in which neighbours stay neighbours (t-SNE)."""
    from sklearn.manifold import TSNE

    z = z / np.linalg.norm(z, axis=1, keepdims=True)
    perplexity = min(PERPLEXITY, (len(z) - 1) / 3)
    places: np.ndarray = TSNE(perplexity=perplexity, random_state=seed).fit_transform(z)
    return places


def draw_feature_map(
    output: Path, found: Features, places: np.ndarray, names: list[str], title: str
) -> None:
    """Draw images as dots in the colour of their class, and those classified wrongly as crosses.

    Each class has its name at the median of its images, of the right ones if there are some, unless
    there are many classes.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patheffects import withStroke

    K = len(names)
    palette = colormaps["tab10" if K <= 10 else "tab20" if K <= 20 else "turbo"]
    colours = palette(found.labels if K <= 20 else found.labels / (K - 1))
    right = found.labels == found.predicted
    figure = Figure(figsize=(7, 7), layout="constrained")
    axis = figure.add_subplot()
    for of, marker, size, label in ((right, "o", 14, "right"), (~right, "x", 26, "wrong")):
        x, y = places[of].T
        label = f"{label} ({of.sum():,})"
        axis.scatter(x, y, c=colours[of], marker=marker, s=size, linewidths=1, label=label)
    for k in np.unique(found.labels) if K <= NAMED else ():
        own = found.labels == k
        x, y = np.median(places[own & right if (own & right).any() else own], axis=0)
        outline = [withStroke(linewidth=2.5, foreground="white")]
        axis.text(x, y, names[k], size=8, ha="center", va="center", path_effects=outline)
    axis.set(xticks=[], yticks=[], title=title)
    axis.set_xlabel("t-SNE of the features of test images, in the colours of their classes")
    handles: list[Any] = axis.legend(loc="best", fontsize=8).legend_handles
    for handle in handles:
        handle.set_color("black")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=150, format=output.suffix.lstrip("."))
    write_output(output, drawn.getvalue())
