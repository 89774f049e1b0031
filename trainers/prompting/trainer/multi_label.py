"""The evaluation of images with several labels: Dassl's evaluator for them."""

from collections.abc import Mapping
from typing import Any

import torch

from ..method import Output
from ..record.scores import Scores
from ..record.several import measures


class MultiLabel:
    """Keeps logits batch by batch and computes the measures of several labels, in %.

    It also records an evaluation, as `evaluation.Recorder` does with one label.

    Args:
        decides: True if sigmoids of the logits are probabilities.
        difficult: True if unknown labels are those of difficult objects only.
    """

    def __init__(self, decides: bool, difficult: bool = False):
        self.decides, self.difficult = decides, difficult
        self.reset()

    def reset(self) -> None:
        """Forget the logits."""
        self.predictions = Scores()

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add logits `mo` (B, K) and labels `gt` (B, K)."""
        self.predictions.add_logits(gt, mo)

    def evaluate(self) -> dict[str, float]:
        """Print and return the results; the first one, mAP, is that by which models are selected.

        They are of logits as `scores.npz` stores them.
        """
        label, logit = self.predictions.arrays()
        results = measures(label, logit, self.decides, self.difficult)
        classes, lacking = label.shape[1], int(results["classes_without_positives"])
        left_out = f" ({lacking} without a positive are left out)" if lacking else ""
        print(
            f"=> result\n* total: {len(label):,}\n* classes: {classes:,}{left_out}\n"
            f"* mAP: {results['map']:.2f}% (guessing: about {results['positive_share']:.2f}%)"
        )
        for name in ("cf1_mean", "of1"):
            if name in results:
                print(f"* {name}: {results[name]:.2f}%")
        return results

    def add(self, output: Output) -> None:
        """Do nothing: `process` keeps the logits of a batch."""

    def end(self, results: Mapping[str, Any]) -> tuple[Scores, dict[str, Any]]:
        """Return the scores and the results."""
        return self.predictions, {**results}
