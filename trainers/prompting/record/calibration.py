"""Answers with a chosen error: a class, several classes, or none of them (docs/use.md).

Letters: n labelled images that nothing else has read, B other images, K classes, D features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..errors import need, printable
from .conformal import scores, threshold

SEVERAL, NONE = "several", "none of these"


class Answer(NamedTuple):
    """The answer to an image.

    answer: a class, SEVERAL, or NONE; classes: those that it may be of, likeliest first, none with
    NONE; p: their probabilities; likeness: the largest centred cosine with a class, or None.
    """

    answer: str
    classes: list[str]
    p: list[float]
    likeness: float | None


@dataclass(frozen=True, eq=False)
class Calibration:
    """A temperature and thresholds for the probabilities of a run, by n labelled images.

    Attributes:
        temperature: which the logits are divided by.
        scores: (n,), LAC scores of the images for their own classes, rising.
        likeness: (n,), their largest centred cosines, rising, if the run has them.
        centre, classes: as from `centre_and_classes`, then.
    """

    temperature: float
    scores: Tensor
    likeness: Tensor | None = None
    centre: Tensor | None = None
    classes: Tensor | None = None

    @classmethod
    def fit(cls, logits: Tensor, labels: Tensor, temperature: float) -> "Calibration":
        """Return that of logits (n, K), with labels (n,), at a temperature."""
        own = scores((logits.float() / temperature).softmax(1), "lac").gather(1, labels[:, None])
        return cls(temperature, own[:, 0].sort().values)

    def threshold(self, error: float) -> float:
        """Return the largest LAC score, 1 - p, of a class in an answer; 1, that of all, at most."""
        return min(threshold(self.scores, error), 1.0)

    def least_likeness(self, error: float) -> float:
        """Return the floor(error (n + 1))-th smallest likeness; -1 if that is 0, or without any."""
        k = 0 if self.likeness is None else int(error * (len(self.likeness) + 1) + 1e-9)
        return float(self.likeness[k - 1]) if k else -1.0  # type: ignore[index]

    def answers(
        self, logits: Tensor, z: Tensor, error: float, classnames: Sequence[str]
    ) -> list[Answer]:
        """Return the answers to B images, given logits (B, K), features (B, D) and K names.

        Raises:
            UserError: as `check_error`.
        """
        limit, least = self.threshold(check_error(error)), self.least_likeness(error)
        p = (logits.float() / self.temperature).softmax(1).cpu()
        kept = (scores(p, "lac") <= limit) | (p == p.amax(1, keepdim=True))  # never empty
        cosines = [None] * len(p)
        if self.centre is not None and self.classes is not None:
            cosines = likeness(z, self.centre, self.classes).tolist()
        answers = []
        for row, inside, cosine in zip(p, kept, cosines, strict=True):
            best = row.argsort(descending=True, stable=True)
            best = best[inside[best]] if cosine is None or cosine >= least else best[:0]
            names = [classnames[k] for k in best.tolist()]
            answer = names[0] if len(names) == 1 else SEVERAL if names else NONE
            answers.append(Answer(answer, names, row[best].tolist(), cosine))
        return answers

    def promise(self, error: float) -> str:
        """Return sentences that say what answers with this error promise, and what they do not."""
        n = len(self.scores)
        bad = min(1, error * (3.2 if n < 100 else 2.2))  # the worst of 60 in docs/advise.md
        lines = [
            f"About {100 * error:.3g}% of images like the {n:,} that calibrated this run lack "
            f"their class in the answer ({100 * bad:.3g}% in a bad draw); of a single class "
            "nothing is promised."
        ]
        if math.isinf(threshold(self.scores, error)):
            few = math.ceil((1 - error) / error - 1e-9)
            lines.append(f"{few:,} images are needed, and with fewer every answer has all classes.")
        if self.likeness is not None:
            lines.append(f"'{NONE}' finds a third to four fifths of images of other classes.")
        return " ".join(lines)


def centre_and_classes(z: Tensor, labels: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Return a centre (D,), and a centred direction of each class (K, D).

    They are of image features (n, D) with labels (n,), and of text features (K, D).
    """
    x, t = F.normalize(z.float(), dim=-1), F.normalize(text.float(), dim=-1)
    centre = x.mean(0)
    sums = F.normalize(t - t.mean(0), dim=-1)
    sums = sums.index_add(0, labels, F.normalize(x - centre, dim=-1))
    return centre, F.normalize(sums, dim=-1)


def likeness(z: Tensor, centre: Tensor, classes: Tensor) -> Tensor:
    """Return the largest centred cosine of image features (B, D) with a class, (B,)."""
    x = F.normalize(z.float(), dim=-1)
    return (F.normalize(x - centre.to(x), dim=-1) @ classes.to(x).T).amax(1)


def check_error(error: object) -> float:
    """Return an error, given as a number or a text; raises UserError if it is not from 0 to 1.

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
