"""The evaluation of images with several labels: Dassl's evaluator for them, and its recorder."""

from collections.abc import Mapping
from typing import Any, Self

import torch

from ..errors import need
from ..method import Method, Output
from ..record.scores import Scores
from ..record.several import measures


class MultiLabel:
    """Keeps logits batch by batch and computes the measures of several labels, in %.

    Args:
        decides: True if sigmoids of the logits are probabilities.
        difficult: True if unknown labels are those of difficult objects only.
    """

    def __init__(self, decides: bool, difficult: bool = False):
        self.decides, self.difficult = decides, difficult
        self.reset()

    @classmethod
    def of(cls, method: Method, dataset: Any) -> Self:
        """Return that of a method on a data set, which may say that unknown is `difficult`."""
        return cls(method.several == "decides", getattr(dataset, "difficult", False))

    def reset(self) -> None:
        """Forget the logits."""
        self.scores = Scores()

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add logits `mo` (B, K) and labels `gt` (B, K)."""
        self.scores.add_logits(gt, mo)

    def evaluate(self) -> dict[str, float]:
        """Print and return the results; the first one, mAP, is that by which models are selected.

        They are of logits as `scores.npz` stores them. Raises UserError if there are no images.
        """
        n = len(self.scores)
        need(n, "There are no images to evaluate on: check the data set and TEST.SPLIT")
        label, logit = self.scores.arrays()
        results = measures(label, logit, self.decides, self.difficult)
        classes, lacking = label.shape[1], int(results["classes_without_positives"])
        left_out = f" ({lacking} without a positive are left out)" if lacking else ""
        print(
            f"=> result\n* total: {n:,}\n* classes: {classes:,}{left_out}\n"
            f"* mAP: {results['map']:.2f}% (guessing: about {results['positive_share']:.2f}%)"
        )
        for name in ("cf1_mean", "of1"):
            if name in results:
                print(f"* {name}: {results[name]:.2f}%")
        return results


class ScoreRecorder:
    """Records an evaluation with `MultiLabel`, as `evaluation.Recorder` does with one label."""

    def __init__(self, evaluator: MultiLabel):
        self._evaluator = evaluator

    @property
    def predictions(self) -> Scores:
        """What the evaluator keeps; it begins anew with each evaluation."""
        return self._evaluator.scores

    def add(self, output: Output) -> None:
        """Do nothing: the evaluator keeps the logits of a batch."""

    def end(self, results: Mapping[str, Any]) -> tuple[Scores, dict[str, Any]]:
        """Return the scores and the results."""
        return self.predictions, {**results}
