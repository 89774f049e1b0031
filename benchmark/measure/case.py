"""Cases to measure: a method with random weights and inputs, and the steps that can be timed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from trainers.prompting import build_method
from trainers.prompting.capabilities.at_test_time import count_views
from trainers.prompting.capabilities.on_support import OnSupport, trains_on_support
from trainers.prompting.capabilities.per_class import make_room
from trainers.prompting.method import METHODS, Method, import_methods
from trainers.prompting.running.memory import fit, keep_freed_memory
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step

from .counting import work_seconds
from .geometry import class_names, untrained_clip

import_methods()
SHOTS = 16  # training images per class, for methods that keep their features before the first step
SUSTAINED = 0.2


@dataclass(frozen=True)
class Case:
    """A method, the size of its problem and the device: all that a measurement depends on."""

    trainer: str
    geometry: tuple  # of the backbone, a value of `GEOMETRY`
    classes: int  # their number, K
    batch: int  # images of a training step, or of an evaluation
    device: str  # `cpu` or `cuda`
    precision: str  # as in `train.py`, one of `PRECISIONS`
    threads: int  # of the CPU
    training: bool = True  # else evaluation
    plugins: tuple[str, ...] = ()  # modules or files that register methods
    settings: tuple[tuple[str, Any], ...] = ()  # keys of the method, where not its defaults


def product_rate(device: str, precision: str, size: int) -> float:
    """Return the highest rate of a square matrix product, in operations per second of work.

    On a CPU, this is the rate of one thread. The product is repeated for `SUSTAINED` seconds, since
    the clock of an idle GPU is slow.
    """
    dtype = Precision(precision, torch.device(device)).computed_in
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    times: list[float] = []
    while len(times) < 2 or sum(times) < SUSTAINED:
        times.append(work_seconds(lambda: torch.mm(a, b), device))
    return 2 * size**3 / min(times)


def node_of(trainer: str, settings: tuple[tuple[str, Any], ...], classes: int) -> dict[str, Any]:
    """Return the settings of a method: those given, and what it needs to be built."""
    defaults: dict[str, Any] = METHODS[trainer].defaults
    node: dict[str, Any] = dict(settings)
    if "SENTENCES" in defaults:
        node.setdefault("SENTENCES", {"*": ["a photo of a {}."] * defaults.get("N_PROMPTS", 1)})
    if isinstance(topk := defaults.get("TOPK"), int):  # LoCoOp's is for 1000 classes
        node.setdefault("TOPK", max(1, min(topk, classes // 5)))
    return node


class Model:
    """A method with random weights, images and labels, whose steps can be timed."""

    def __init__(self, case: Case):
        self.case = case
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        clip_model = untrained_clip(case.geometry)
        names = class_names(case.classes)
        node = node_of(case.trainer, case.settings, case.classes)
        self.method = build_method(case.trainer, node, clip_model, names)
        if isinstance(self.method, OnSupport) and self.method.support_passes:
            labels = torch.arange(case.classes).repeat(SHOTS)
            make_room(self.method, len(labels))
            features = torch.randn(1, len(labels), self.method.row_width)
            self.method.take_support(features, labels)
        self.precision = Precision(case.precision, torch.device(case.device))
        if case.device == "cpu":
            keep_freed_memory()
        self.precision.place(self.method, clip_model)
        self.method.train(case.training)
        size = clip_model.visual.input_resolution
        self.images = torch.randn(case.batch, 3, size, size).to(case.device)
        self.labels = (torch.arange(case.batch) % case.classes).to(case.device)
        if case.training:
            on_support = trains_on_support(type(self.method))
            fit(self.method, case.batch, 0.0, self.precision, on_support)
            if on_support:
                self.images = torch.randn(case.batch, self.method.row_width).to(case.device)
            trained = self.method.learned().values()
            self.optim = torch.optim.SGD(trained, lr=1e-5, momentum=0.9)

    def step(self):
        """Run a training step, as the trainers do."""
        training_step(self.method, self.batch(), self.optim, self.precision)

    def batch(self):
        """Return the images, in as many views as the method needs, with their labels."""
        return self.method.batch([self.images] * self.method.views, self.labels)

    @property
    def text_depends_on_image(self) -> bool:
        """True if each image has texts of its own (CoCoOp)."""
        return type(self.method).output is not Method.output

    def prepare_score(self) -> bool:
        """Keep the features of images and classes, detached from the graph of the encoders.

        Returns:
            True if their comparison is more than one product: several prompts, or patches.
        """
        with self.precision.autocast():
            _, image, text = self.method.output(self.images)
        self.features = [as_leaves(features) for features in (image, text)]
        several = image.z.shape[1] > 1 or (len(text.h) > 1 and not self.text_depends_on_image)
        return image.r is not None or several

    def score(self):
        """Compute the scores of a step from the kept features, forward and backward."""
        with self.precision.autocast():
            logits = self.method.compare(*self.features)
        F.cross_entropy(logits, self.labels).backward()

    @torch.no_grad()
    def evaluate(self):
        """Compute the logits of the images; text features are reused between calls."""
        views = count_views(self.method)
        with self.precision.autocast():
            self.method.predict([self.images] * views if views > 1 else self.images)

    @torch.no_grad()
    def encode_images(self):
        """Compute the states of the images, with the same visual prompts and added parts."""
        with self.precision.autocast():
            self.method.image_features(self.images, self.method.contexts())

    def encode_text(self):
        """Compute the text features, which an evaluation needs once."""
        with self.precision.autocast():
            self.method.text()


def as_leaves(features):
    """Return features detached from their graph; those that had a gradient require one again."""
    return type(features)(
        *(x.detach().requires_grad_(x.requires_grad) if torch.is_tensor(x) else x for x in features)
    )


def chip_name(device: str) -> str:
    """Return the name of the GPU, or of the processor where Linux reports it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    match = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return match[1] if match else "the CPU"
