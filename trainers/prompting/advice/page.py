"""A page with the advice: one HTML file that reads nothing else."""

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from ..images.image_files import read_single
from ..record.several import average_precisions
from .images import Collection
from .statement import Curve, Statement, least_share
from .tags import TagChoice

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)
SIDE, PAIRS, IMAGES = 160, 12, 12  # pixels of an image; shown pairs, images of each
LEFT_OUT = 50  # named images


def candidates(said: Statement) -> list[tuple[str, str, str, str]]:
    """Return name, right answers, at least how many others are, zero-shot (%) of each, best first.

    Of a method with several settings on a CLIP, these are the best one's. Where nothing can be
    said about accuracy, the first two are "-"; so is the second where labels are in series.
    """
    n, rows = len(said.choice.labels), []
    best = {(one.clip, one.method): one for one in reversed(said.choice.candidates)}
    for one in (one for one in said.choice.candidates if one is best[one.clip, one.method]):
        of_each = one.right / n, least_share(one.right / n, said.choice.effective)
        own, low = ("-" if said.silent else f"{100 * share:.1f}" for share in of_each)
        low = "-" if said.choice.in_series else low
        rows.append((f"{one.method} on {one.clip}", own, low, f"{100 * one.zero_shot / n:.1f}"))
    return rows


def page_of(
    collection: Collection,
    said: Statement,
    confusions: list[tuple[int, int, Any]],
    least: Any,
    commands: dict[str, str],
    steps: list[str],
) -> str:
    """Return the page.

    Args:
        collection: the images.
        said: the statement about them.
        confusions: as from `labels.confusions`.
        least: as from `labels.least_likely`.
        commands: to run next, by their titles.
        steps: as from `next_steps`.
    """
    choice, n = said.choice, len(said.choice.labels)
    answers = choice.best.logits.argmax(1)
    shown = [i for i in least if choice.judged[i]][:IMAGES]
    return _render(
        "page.html.j2",
        collection,
        sentences=said.sentences(),
        commands=commands,
        steps=steps,
        curve=None if said.silent else said.curve,
        chart=lambda curve: _chart(draw_curve(curve)),
        candidates=candidates(said),
        n=n,
        confusions=[
            (own, other, rows[:IMAGES], len(rows)) for own, other, rows in confusions[:PAIRS]
        ],
        least=[(choice.rows[i], choice.labels[i], answers[i]) for i in shown],
    )


def page_of_tags(collection: Collection, choice: TagChoice, commands: dict[str, str]) -> str:
    """Return the page about images with several labels, and the commands to run next."""
    y, names, files = choice.labels, collection.classnames, collection.names
    each = zip(names, 100 * average_precisions(y, choice.best.logits), (y == 1).sum(0), strict=True)
    wrong = []
    for i in choice.most_wrong()[:IMAGES]:
        given, labels = (", ".join(texts) or "none" for texts in choice.names(i, names))
        wrong.append((row := choice.rows[i], f"{given}; labelled {labels}: {files[row]}"))
    return _render(
        "tags.html.j2",
        collection,
        sentences=choice.sentences(),
        commands=commands,
        steps=[],
        chart=_chart(draw_tags(choice)),
        candidates=candidates_of_tags(choice),
        n=len(y),
        each=[(name, f"{p:.1f}", m) for name, p, m in sorted(each, key=lambda row: row[1])],
        wrong=wrong,
        least=wrong,
    )


def candidates_of_tags(choice: TagChoice) -> list[tuple[str, str]]:
    """Return name and mAP (%) of each method on each CLIP, with its best settings, best first."""
    best = {f"{one.method} on {one.clip}": one.map for one in reversed(choice.candidates)}
    return [(name, f"{score:.1f}") for name, score in sorted(best.items(), key=lambda x: -x[1])]


def _render(template: str, collection: Collection, **more: Any) -> str:
    """Return a page about a collection, in ASCII."""
    text = TEMPLATES.get_template(template).render(
        source=collection.source.name,
        table="" if collection.source.is_dir() else collection.source.name,
        names=collection.classnames,
        files=collection.names,
        left_out=collection.left_out[:LEFT_OUT],
        more=len(collection.left_out) - LEFT_OUT,
        jpeg=lambda row: _jpeg(collection.paths[row]),
        **more,
    )
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _jpeg(path: str) -> str:
    image, content = read_single(path), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    image.save(content, "JPEG", quality=85)
    return base64.b64encode(content.getvalue()).decode()


def _chart(figure: "Figure") -> str:
    """Return a figure as an SVG in base64."""
    from matplotlib import rc_context  # slow to import

    content = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "advice"}):  # the same each time
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return base64.b64encode(content.getvalue()).decode()


def draw_curve(curve: Curve) -> "Figure":
    """Return a figure of accuracy (%) against labels, which have a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure((5.2, 3.0), layout="constrained")
    axis = figure.subplots()
    axis.semilogx(curve.n, [100 * share for share in curve.accuracy], "o-", color="#0b57a4")
    axis.set_ylim(min(90, 10 * math.floor(10 * min(curve.accuracy))), 100.5)
    axis.set_xticks(curve.n, [f"{n:,}" for n in curve.n])
    axis.minorticks_off()
    axis.set(xlabel="Labels", ylabel="Right, %")
    axis.grid(axis="y", color="#ccc")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def draw_tags(choice: TagChoice) -> "Figure":
    """Return a figure of right tags against labels found (%), with the thresholds of the run."""
    from matplotlib.figure import Figure

    figure = Figure((5.2, 3.4), layout="constrained")
    axis = figure.subplots()
    found, right = (100 * x for x in choice.curve())
    axis.plot(found, right, color="#0b57a4")
    y, given = choice.labels, choice.given
    hits, tags = ((y == 1) & given).sum(), ((y >= 0) & given).sum()
    points = {"best F1": (100 * hits / (y == 1).sum(), 100 * hits / max(tags, 1))}
    if choice.fitted[0].sure is not None:
        share = 100 * choice.fitted[0].found
        points["--sure"] = (share, right[found.searchsorted(share - 1e-6)])
    for marker, (name, place) in zip("os", points.items(), strict=False):
        axis.plot(*place, marker, color="#0b57a4", label=name)
    axis.legend(loc="lower left", frameon=False)  # the points are often close to each other
    axis.set(xlim=(0, 100.5), ylim=(0, 102), xlabel="Labels found, %", ylabel="Right tags, %")
    axis.grid(color="#ccc")
    axis.spines[["top", "right"]].set_visible(False)
    return figure
