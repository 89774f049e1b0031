"""What a model says of each image, collected batch by batch where the model computes."""

import os

import torch

TOP = 5  # classes that are kept of an image


class Predictions:
    """The answers to the images of one evaluation; nothing is read before `columns` asks."""

    def __init__(self):
        self.files: list[str] = []
        self._labels: list[torch.Tensor] = []
        self._answers: list[tuple[torch.Tensor, ...]] = []

    def add_images(self, files: list[str], labels: torch.Tensor) -> None:
        """The files (B) and labels (B,) of the next batch."""
        self.files += files
        self._labels.append(labels)

    def add_logits(self, logits: torch.Tensor) -> None:
        """The logits (B, K) of the batch that was added last."""
        log_p = logits.float().log_softmax(1)
        top = log_p.topk(min(TOP, log_p.shape[1]), dim=1)
        of_label = log_p.gather(1, self._labels[-1][:, None])[:, 0]
        # of equal logits argmax need not take the first of topk; the evaluator takes argmax
        self._answers.append((logits.argmax(1), top.indices, top.values.exp().half(), of_label))

    def columns(self) -> dict[str, list[str] | torch.Tensor]:
        """One row an image, in the order of the evaluation.

        Returns:
            `image` (n,), files relative to the folder that holds all of them; `label` and
            `prediction` (n,), classes by number; `top` and `probability` (n, 5), the likeliest
            classes, best first (n, K where K < 5); `label_log_probability` (n,), natural logarithm.
        """
        folder = os.path.commonpath([os.path.dirname(file) for file in self.files])
        files = [os.path.relpath(file, folder).replace(os.sep, "/") for file in self.files]
        answers = [torch.cat(column).cpu() for column in zip(*self._answers, strict=True)]
        prediction, top, probability, of_label = answers
        return {
            "image": files,
            "label": torch.cat(self._labels).cpu().int(),
            "prediction": prediction.int(),
            "top": top.int(),
            "probability": probability,
            "label_log_probability": of_label,
        }
