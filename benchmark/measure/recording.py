"""Record a whole training of a Dassl trainer, of public code or ours: start, batches, steps, end.

It imports nothing of this repository, because `public_training.py` uses it next to published code.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]


def recorded_training(trainer, learned: Callable[[], Mapping[str, torch.Tensor]]) -> Tensors:
    """Train a Dassl trainer whose batches have one view, and return what happened.

    `learned` returns the trained parameters by name.

    Returns:
        `pixels` (steps, B, 3, H, W), 8 bits, and `label` (steps, B) of the batches; `loss` and `lr`
        (steps,); `start/NAME` and `final/NAME` of each parameter.
    """
    step, mean, std = trainer.forward_backward, *normalization(trainer.cfg)
    steps: dict[str, list] = {"pixels": [], "label": [], "loss": [], "lr": []}

    def note(batch):
        steps["pixels"].append(as_pixels(batch["img"], mean, std))
        steps["label"].append(batch["label"].clone())
        steps["lr"].append(torch.tensor(trainer.get_current_lr(), dtype=torch.float64))
        losses = step(batch)
        steps["loss"].append(torch.as_tensor(losses["loss"], dtype=torch.float64))
        return losses

    trainer.forward_backward = note
    start = copies(learned(), "start/")
    trainer.train()
    ended = {name: torch.stack(values) for name, values in steps.items()}
    return ended | start | copies(learned(), "final/")


def copies(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Return copies of tensors, with a prefix before each name."""
    return {prefix + name: x.detach().clone().contiguous() for name, x in tensors.items()}


def evaluate(trainer) -> tuple[float, torch.Tensor]:
    """Return the accuracy that the trainer finds on its test images, and their logits (n, K)."""
    infer, logits = trainer.model_inference, []

    def note(images):
        logits.append(infer(images))
        return logits[-1]

    trainer.model_inference = note
    accuracy = trainer.test()
    trainer.model_inference = infer
    return float(accuracy), torch.cat(logits).float()


def normalization(cfg) -> list[torch.Tensor]:
    """Return the mean and the standard deviation (3, 1, 1) that normalise the images of a cfg."""
    keys: Any = cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD
    return [torch.tensor(values)[:, None, None] for values in keys]


def as_pixels(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return normalised images as the 8 bits of which they were made."""
    return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def normalize(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Return 8-bit images as torchvision's ToTensor and Normalize make them."""
    return pixels.float().div(255).sub(mean).div(std)


class Replayed:
    """A loader that returns recorded batches, epoch after epoch, in place of a trainer's own."""

    def __init__(self, record: Tensors, loader, cfg):
        self.dataset, self.batch_sampler, self.steps = loader.dataset, loader.batch_sampler, 0
        self.length, self.record, self.cfg = len(loader), record, cfg

    def __len__(self):
        return self.length

    def __iter__(self):
        pixels, labels = self.record["pixels"], self.record["label"]
        for _ in range(self.length):
            images = normalize(pixels[self.steps], *normalization(self.cfg))
            yield {"img": images, "label": labels[self.steps]}
            self.steps += 1
