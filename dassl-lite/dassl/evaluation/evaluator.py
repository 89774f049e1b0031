"""Accuracy, error, macro-F1, per-class accuracy and the confusion matrix."""

import os.path as osp
from collections import OrderedDict

import numpy as np
import torch

from dassl.utils import mkdir_if_missing
from dassl.utils.checkpoints import save_whole

from .build import EVALUATOR_REGISTRY


@EVALUATOR_REGISTRY.register()
class Classification:
    """Collects predictions batch by batch and computes the metrics, all in %."""

    def __init__(self, cfg, lab2cname=None, **kwargs):
        """Start without predictions; `lab2cname` names the classes of the per-class result."""
        self.cfg = cfg
        self._lab2cname = lab2cname
        self.reset()

    def reset(self):
        """Forget the predictions."""
        self._predictions = []
        self._labels = []

    def process(self, mo, gt):
        """Add logits `mo` (B, K) and labels `gt` (B,)."""
        # They stay on the device: reading them here would wait for the GPU in every batch.
        self._predictions.append(mo.argmax(dim=1))
        self._labels.append(gt)

    def evaluate(self):
        """Print and return the results; the first one is that by which models are selected."""
        predicted = torch.cat(self._predictions).cpu().numpy()
        labels = torch.cat(self._labels).cpu().numpy()
        correct = int((predicted == labels).sum())
        accuracy = 100.0 * correct / len(labels)
        matrix = confusion(labels, predicted)
        right, images = matrix.diagonal(), matrix.sum(1)
        f1 = (2 * right / np.maximum(images + matrix.sum(0), 1))[images > 0]
        macro_f1 = 100.0 * float(f1.mean())
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=macro_f1)
        print(
            "=> result\n"
            f"* total: {len(labels):,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {accuracy:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {macro_f1:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._per_class(labels, predicted == labels)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion(matrix)
        return results

    def _per_class(self, labels, hits):
        print("=> per-class result")
        accuracies = []
        for label in np.unique(labels).tolist():
            of_class = hits[labels == label]
            accuracies.append(100.0 * of_class.mean())
            name = (self._lab2cname or {}).get(label, label)
            print(
                f"* class: {label} ({name})\t"
                f"total: {len(of_class):,}\t"
                f"correct: {of_class.sum():,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        mean = float(np.mean(accuracies))
        print(f"* average: {mean:.1f}%")
        return mean

    def _save_confusion(self, matrix):
        # Rows are true classes; each row sums to 1, or to 0 if there are no images of the class.
        matrix = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        mkdir_if_missing(self.cfg.OUTPUT_DIR)
        path = osp.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        save_whole(torch.from_numpy(matrix), path)
        print(f"Confusion matrix is saved to {path}")


def confusion(labels, predicted):
    """Return the counts (n, n) of images by true and predicted class, of the n classes in either.

    scikit-learn has this, but takes a second to import, in every run.
    """
    classes, index = np.unique(np.concatenate([labels, predicted]), return_inverse=True)
    n = len(classes)
    rows, columns = index.reshape(2, -1)
    return np.bincount(rows * n + columns, minlength=n * n).reshape(n, n)
