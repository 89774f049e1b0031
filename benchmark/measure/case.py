"""A case of the speed benchmark: a model with its inputs, whose methods can be timed."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from trainers.naive import Naive
from trainers.prompting import PromptSpec, UserError, build_method, prompt_spec
from trainers.prompting.errors import check_name
from trainers.prompting.method import METHODS
from trainers.prompting.running.memory import keep_freed_memory, memory_budget
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step, update

from .geometry import class_names, untrained_clip

SHOTS = 16  # images a class, of what learns from the training set before the first step
CHECK_TOLERANCE = 1e-6  # of the solver where logits are compared: it would hide behind its own

aten = torch.ops.aten
# PyTorch's counter leaves out the attention that the CPU runs.
ATTENTION_ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


@dataclass(frozen=True)
class Case:
    """What is measured, and on what.

    Attributes:
        trainer: name of the method, in its default setting.
        geometry: of the backbone, a value of `GEOMETRY`.
        batch: images of a step, or of an evaluation.
        device: `cpu` or `cuda`.
        precision: `fp32`, `amp` or `fp16`, as in `train.py`.
        memory_budget: GiB for the activations of a step; 0 asks the machine.
        training: training steps; else evaluation.
        compile: torch.compile fuses the blocks, as with TRAINER.COMPILE.
        plugins: modules or files with methods.
    """

    trainer: str
    geometry: tuple
    classes: int
    batch: int
    device: str
    precision: str
    threads: int
    memory_budget: float = 0.0
    training: bool = True
    compile: bool = False
    plugins: tuple[str, ...] = ()

    @property
    def spec(self) -> PromptSpec:
        """The method's point in the space of prompts."""
        return prompt_spec(self.trainer, {})


def check_usable(device: str) -> None:
    """Raises UserError for a device that is not here."""
    check_name("device", device, ("cpu", "cuda"))
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU that PyTorch can use: give --device cpu")


def computing_type(device: str, precision: str) -> torch.dtype:
    """The type of the large matrix products."""
    if precision == "fp32":
        return torch.float32
    return torch.bfloat16 if device == "cpu" else torch.float16


def synchronize(device: str) -> None:
    """Wait for the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds that a call takes."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def operations(work: Callable[[], object]) -> int:
    """Floating-point operations of a call."""
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        work()
    return counter.get_total_flops()


def product_rate(device: str, precision: str, size: int) -> float:
    """Operations per second of a matrix product, the better of two: what the machine can reach."""
    dtype = computing_type(device, precision)
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: torch.mm(a, b), device) for _ in range(2))


class Model:
    """A method on random weights, images and labels."""

    net: Any  # what is measured
    recomputed: tuple[str, ...] = ()  # towers
    planned = 0.0  # bytes that a step keeps

    def __init__(self, case: Case):
        self.case = case
        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        clip_model = untrained_clip(case.geometry)
        names = class_names(case.classes)
        node = {"SENTENCES": {"*": ["a photo of a {}."]}}  # of a method that has no default for it
        node = {key: value for key, value in node.items() if key in METHODS[case.trainer].defaults}
        self.method = build_method(case.trainer, node, clip_model, names)
        if self.method.support_passes:
            labels = torch.arange(case.classes).repeat(SHOTS)
            self.method.make_room(len(labels))
            features = torch.randn(1, len(labels), self.method.model.feature_width)
            self.method.take_support(features, labels)
        self.model = self.method.model
        self.precision = Precision(case.precision, torch.device(case.device))
        self.net = self.prepared(clip_model, names)
        size = clip_model.visual.input_resolution
        self.images = torch.randn(case.batch, 3, size, size).to(case.device)
        self.labels = (torch.arange(case.batch) % case.classes).to(case.device)
        if case.training:
            if self.method.trains_on_support:
                self.images = torch.randn(case.batch, self.model.feature_width).to(case.device)
            trained = self.model.trained().parameters()
            self.optim = torch.optim.SGD(trained, lr=1e-5, momentum=0.9)

    def prepared(self, clip_model, names: list[str]) -> nn.Module:
        """The model on its device, set up as the trainers do.

        Raises:
            UserError: it cannot be compiled, or a step does not fit into the budget.
        """
        case = self.case
        if case.device == "cpu":
            keep_freed_memory()
        self.precision.place(self.model, clip_model)
        self.model.to(case.device).train(case.training)
        if case.training:
            budget = memory_budget(case.memory_budget, torch.device(case.device))
            plan = self.model.fit_memory(budget, case.batch, self.precision.itemsize)
            self.recomputed, self.planned = plan.recompute, plan.needed
        if case.compile and (obstacle := self.model.compile_blocks()):
            raise UserError(f"--compile does not work here ({obstacle}): leave it out")
        return self.model

    def step(self):
        """Make a training step, as the trainers do."""
        output, _ = training_step(self.method, self.batch(), self.optim, self.precision)
        self.logits = output.logits.detach()

    def batch(self):
        """The images, in as many views as the method takes, and their labels."""
        return self.method.batch([self.images] * self.method.views, self.labels)

    def first_step(self) -> torch.Tensor:
        """Make a step with a strict solver; returns its logits (B, K), to be compared."""
        spec = self.net.spec
        self.net.spec = spec.with_(tol=CHECK_TOLERANCE)
        self.step()
        self.net.spec = spec
        return self.logits.cpu()

    def prepare_score(self):
        """Keep the features of the images and the classes, apart from what made them."""
        with self.precision.autocast():
            output = self.model.output(self.images)
        self.features = [as_leaves(features) for features in (output.image, output.text)]

    def score(self):
        """Compute the scores of a step from its features, and their gradient."""
        with self.precision.autocast():
            logits = self.model.score(*self.features)
        F.cross_entropy(logits, self.labels).backward()

    @torch.no_grad()
    def evaluate(self):
        """Compute the logits of the images, with text features that are kept."""
        with self.precision.autocast():
            self.net(self.images)

    @torch.no_grad()
    def encode_images(self):
        """Compute the states of the images, under the same visual prompts and additions."""
        with self.precision.autocast():
            vision = self.model.contexts().vision if self.case.spec.M else None
            self.model.image_encoder(self.images, vision, self.model.parts.blocks("image"))

    def encode_text(self):
        """Make the text features, which evaluation keeps."""
        with self.precision.autocast():
            self.model.text_features()


class NaiveModel(Model):
    """The naive reference of a method, in the same case, without what spares time and memory."""

    def prepared(self, clip_model, names):
        """The reference on its device, which calls the modules of OpenAI's CLIP."""
        if self.case.precision != "amp":  # which converts weights at each product
            self.precision.place(self.model, clip_model)
        naive = Naive(clip_model, names, self.model)
        return naive.to(self.case.device).train(self.case.training)

    def step(self):
        """Make a training step."""
        with self.precision.autocast():
            output = self.net.output(self.images)
            terms = self.method.terms(output, self.batch())
        update(self.method, terms, self.optim, self.precision)
        self.logits = output.logits.detach()


def as_leaves(features):
    """The features without what made them; those that had a gradient ask for one."""
    return type(features)(
        *(x.detach().requires_grad_(x.requires_grad) if torch.is_tensor(x) else x for x in features)
    )


def device_name(device: str) -> str:
    """The name of the GPU, or of the processor as far as the system tells it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else "the CPU"
