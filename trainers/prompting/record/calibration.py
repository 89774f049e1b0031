"""Answers with a chosen error: a class, several classes, or none of them (docs/use.md).

Labelled images that nothing else has read calibrate a run. Letters: n of them, K classes, B images,
D the width of the features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..errors import need, printable
from .conformal import scores, threshold

SEVERAL, NONE = "several", "none of these"
BAD = 2.2  # times the error, in a bad draw of the images that calibrate (docs/advise.md)


class Answer(NamedTuple):
    """The answer to an image.

    answer: a class, SEVERAL, or NONE; classes: those that it may be of, likeliest first, none with
    NONE; p: their probabilities; likeness: the largest centred cosine with a class, from -1 to 1,
    or None for a run without it.
    """

    answer: str
    classes: list[str]
    p: list[float]
    likeness: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the labelled images say of the probabilities of a run.

    Attributes:
        temperature: which the logits are divided by.
        scores: (n,), LAC scores of the images for their own classes, rising.
        likeness: (n,), the largest centred cosines of the images, rising, if the run has them;
        centre, classes: and what they are computed with, as from `centred`.
    """

    temperature: float
    scores: Tensor
    likeness: Tensor | None = None
    centre: Tensor | None = None
    classes: Tensor | None = None

    @classmethod
    def fit(cls, logits: Tensor, labels: Tensor, temperature: float) -> "Calibration":
        """Return that of logits (n, K), with labels (n,), at a temperature."""
        own = scores(_probabilities(logits, temperature), "lac").gather(1, labels[:, None])
        return cls(temperature, own[:, 0].sort().values)

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def threshold(self, error: float) -> float:
        """Return the largest LAC score, 1 - p, of a class in an answer; 1, that of all, at most."""
        return min(threshold(self.scores, error), 1.0)

    def least_likeness(self, error: float) -> float:
        """Return the floor(error (n + 1))-th smallest likeness; less than any other if that is 0.

        It is -1 for a run without likeness, too.
        """
        if self.likeness is None or (k := int(error * (len(self.likeness) + 1) + 1e-9)) < 1:
            return -1.0
        return float(self.likeness[k - 1])

    def answers(
        self, logits: Tensor, z: Tensor, error: float, classnames: Sequence[str]
    ) -> list[Answer]:
        """Return the answers to B images.

        Args:
            logits: (B, K).
            z: (B, D), image features.
            error: share of images of the classes whose answer may lack their class.
            classnames: K names.

        Raises:
            UserError: as `check_error`.
        """
        limit, least = self.threshold(check_error(error)), self.least_likeness(error)
        p = _probabilities(logits, self.temperature).cpu()
        kept = (scores(p, "lac") <= limit) | (p == p.amax(1, keepdim=True))  # never empty
        like = [None] * len(p)
        if self.classes is not None:
            like = likeness(z, self.centre, self.classes).tolist()
        answers = []
        for row, inside, cosine in zip(p, kept, like, strict=True):
            best = row.argsort(descending=True, stable=True)
            best = best[inside[best]] if cosine is None or cosine >= least else best[:0]
            names = [classnames[k] for k in best.tolist()]
            answer = names[0] if len(names) == 1 else SEVERAL if names else NONE
            answers.append(Answer(answer, names, row[best].tolist(), cosine))
        return answers

    def promise(self, error: float) -> str:
        """Return sentences that say what answers with this error promise, and what they do not."""
        n = len(self.scores)
        lines = [
            f"About {100 * error:.3g}% of images like the {n:,} that calibrated this run lack "
            f"their class in the answer ({min(100, 100 * BAD * error):.3g}% in a bad draw); of a "
            "single class nothing is promised."
        ]
        if math.isinf(threshold(self.scores, error)):
            few = math.ceil((1 - error) / error - 1e-9)
            lines.append(f"{few:,} images are needed, and with fewer every answer has all classes.")
        if self.likeness is not None:
            lines.append(f"'{NONE}' finds a third to four fifths of images of other classes.")
        return " ".join(lines)


def centred(z: Tensor, labels: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Return a centre (D,), and a centred direction of each class (K, D), from labelled images.

    Args:
        z: (n, D), image features.
        labels: (n,).
        text: (K, D), text features of the classes.
    """
    x, t = F.normalize(z.float(), dim=-1), F.normalize(text.float(), dim=-1)
    centre = x.mean(0)
    sums = F.normalize(t - t.mean(0), dim=-1)
    sums = sums.index_add(0, labels, F.normalize(x - centre, dim=-1))
    return centre, F.normalize(sums, dim=-1)


def likeness(z: Tensor, centre: Tensor, classes: Tensor) -> Tensor:
    """Return the largest centred cosine of image features (B, D) with a class, (B,)."""
    x = F.normalize(z.float(), dim=-1) - centre.to(z.device)
    return (F.normalize(x, dim=-1) @ classes.to(z.device).T).amax(1)


def check_error(error: object) -> float:
    """Return an error, a share of images, given as a number or a text.

    Raises:
        UserError: it is not between 0 and 1.

    Examples:
        >>> check_error("0.05")
        0.05
    """
    try:
        value = float(error)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    shown = printable(error)[:20]
    need(0 < value < 1, f"The error is '{shown}', but must be a number between 0 and 1: take 0.05")
    return value


def _probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (logits.float() / temperature).softmax(1)
