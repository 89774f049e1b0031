"""A page with the advice: one HTML file that reads nothing else."""

import base64
import io
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from .images import Collection, read_image
from .statement import Curve, Statement, least_share

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
)
SIDE, PAIRS, IMAGES, LABELS = 160, 12, 12, 60  # pixels of an image; shown pairs, images, labels
WIDE, HIGH, LEFT, LOW = 380, 220, 42, 30  # pixels of the chart, and of its margins


def candidates(said: Statement) -> list[tuple[str, str, str, str]]:
    """Return name, right answers, at least how many others are, zero-shot (%) of each, best first.

    Of a method with several settings on a CLIP, these are the best one's. Where nothing can be
    said about accuracy, the first two are "-".
    """
    n, rows = len(said.choice.labels), []
    best = {(one.clip, one.method): one for one in reversed(said.choice.candidates)}
    for one in (one for one in said.choice.candidates if one is best[one.clip, one.method]):
        of_each = one.right / n, least_share(one.right / n, said.choice.effective)
        own, low = ("-" if said.silent else f"{100 * share:.1f}" for share in of_each)
        rows.append((f"{one.method} on {one.clip}", own, low, f"{100 * one.zero_shot / n:.1f}"))
    return rows


def page_of(
    collection: Collection,
    said: Statement,
    named: Any,
    confusions: list[tuple[int, int, Any]],
    commands: dict[str, str],
    steps: list[str],
) -> str:
    """Return the page.

    Args:
        collection: the images.
        said: the statement about them.
        named: labelled images whose labels look wrong, as numbers below n.
        confusions: as from `labels.confusions`.
        commands: to run next, by their titles.
        steps: as from `next_steps`.
    """
    choice, n = said.choice, len(said.choice.labels)
    answers = choice.best.logits.argmax(1)
    text = TEMPLATES.get_template("page.html.j2").render(
        source=collection.source.name,
        sentences=said.sentences(),
        commands=commands,
        steps=steps,
        table="" if collection.source.is_dir() else collection.source.name,
        chart=_chart(said.curve) if said.curve and not said.silent else "",
        candidates=candidates(said),
        n=n,
        names=collection.classnames,
        files=collection.names,
        jpeg=lambda row: _jpeg(collection.paths[row]),
        confusions=[
            (own, other, rows[:IMAGES], len(rows)) for own, other, rows in confusions[:PAIRS]
        ],
        suspicious=[(choice.rows[i], choice.labels[i], answers[i]) for i in named[:LABELS]],
    )
    return text.encode("ascii", "xmlcharrefreplace").decode()


def _jpeg(path: str) -> str:
    image, content = read_image(path), io.BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    image.save(content, "JPEG", quality=85)
    return base64.b64encode(content.getvalue()).decode()


def _chart(curve: Curve) -> str:
    """Return an SVG of accuracy (%) against the number of labels, which has a logarithmic axis."""
    first, last = math.log(curve.n[0]), math.log(curve.n[-1])
    floor = min(0.9, math.floor(10 * min(curve.accuracy)) / 10)

    def at(labels: float, accuracy: float) -> tuple[float, float]:
        x = LEFT + 20 + (WIDE - LEFT - 50) * (math.log(labels) - first) / (last - first)
        return x, (HIGH - LOW) - (HIGH - LOW - 20) * (accuracy - floor) / (1 - floor)

    parts = []
    for tenth in range(round(10 * floor), 11):
        y = at(curve.n[0], tenth / 10)[1]
        parts.append(f'<line x1="{LEFT}" x2="{WIDE}" y1="{y:.1f}" y2="{y:.1f}"/>')
        if tenth % (1 if floor >= 0.5 else 2) == 0:
            parts.append(f'<text x="4" y="{y + 4:.1f}">{10 * tenth}%</text>')
    points = [at(*point) for point in zip(curve.n, curve.accuracy, strict=True)]
    parts.append(
        f'<path stroke-width="2" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'
    )
    for labels, (x, y) in zip(curve.n, points, strict=True):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<text x="{x:.1f}" y="{HIGH - 8}" text-anchor="middle">{labels:,}</text>')
    alt = f"Accuracy with {curve.n[0]:,} to {curve.n[-1]:,} labels"
    return f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
