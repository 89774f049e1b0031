"""A case of the speed benchmark: a model with its inputs, measured in a process of its own."""

import multiprocessing
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from recipe.environment import peak_memory_mib
from trainers.naive import Naive
from trainers.prompting import PromptSpec, UserError, build_method, prompt_spec
from trainers.prompting.method import METHODS
from trainers.prompting.running.memory import keep_freed_memory, memory_budget
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step, update

from .geometry import class_names, necessary_flops, untrained_clip

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
        naive: the reference takes the place of the model.
        training: training steps; else evaluation.
        compile: torch.compile fuses the blocks, as with TRAINER.COMPILE.
    """

    trainer: str
    geometry: tuple
    classes: int
    batch: int
    device: str
    precision: str
    threads: int
    memory_budget: float = 0.0
    naive: bool = False
    training: bool = True
    compile: bool = False

    @property
    def spec(self) -> PromptSpec:
        return prompt_spec(self.trainer, {})


def computing_type(device: str, precision: str) -> torch.dtype:
    """The type of the large matrix products."""
    if precision == "fp32":
        return torch.float32
    return torch.bfloat16 if device == "cpu" else torch.float16


def settings(trainer: str, names: list[str]) -> dict:
    """What a method has no default for: sentences about the classes."""
    if "SENTENCES" not in METHODS[trainer].defaults:
        return {}
    return {"SENTENCES": {name: [f"a photo of a {name}."] for name in names}}


class Subject:
    """Whatever has methods without arguments that can be timed."""

    def __init__(self, device: str, threads: int):
        torch.set_num_threads(threads)
        self.device = device

    def synchronize(self):
        if self.device == "cuda":
            torch.cuda.synchronize()

    def timed(self, work: str, *args) -> float:
        """Seconds of one call of a method."""
        self.synchronize()
        started = time.perf_counter()
        getattr(self, work)(*args)
        self.synchronize()
        return time.perf_counter() - started

    def counted(self, work: str) -> int:
        """Floating-point operations of one call of a method."""
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
            getattr(self, work)()
        return counter.get_total_flops()

    def peak_memory(self) -> float:
        """MiB that this process has held at most, or that its tensors took on the GPU."""
        return peak_memory_mib(self.device)


class Product(Subject):
    """A matrix product of that size: the rate that the machine can reach."""

    def __init__(self, device: str, threads: int, size: int):
        super().__init__(device, threads)
        self.size = size

    def multiply(self, a, b):
        torch.mm(a, b)

    def rate(self, precision: str) -> float:
        """Operations per second, the better of two."""
        dtype = computing_type(self.device, precision)
        a, b = (torch.randn(self.size, self.size).to(self.device, dtype) for _ in range(2))
        return 2 * self.size**3 / min(self.timed("multiply", a, b) for _ in range(2))


class Model(Subject):
    """A method on random weights, images and labels; or the naive reference of it."""

    def __init__(self, case: Case):
        super().__init__(case.device, case.threads)
        self.case = case
        if case.device == "cpu" and not case.naive:
            keep_freed_memory()
        torch.manual_seed(0)
        clip_model = untrained_clip(case.geometry)
        names = class_names(case.classes)
        self.method = build_method(case.trainer, settings(case.trainer, names), clip_model, names)
        self.model = self.method.model
        self.precision = Precision(case.precision, torch.device(case.device))
        if not (case.naive and case.precision == "amp"):  # which converts weights at each product
            self.precision.place(self.model, clip_model)
        self.net = Naive(clip_model, names, self.model) if case.naive else self.model
        self.net.to(case.device).train(case.training)
        size = clip_model.visual.input_resolution
        self.images = torch.randn(case.batch, 3, size, size).to(case.device)
        self.labels = (torch.arange(case.batch) % case.classes).to(case.device)
        self.recomputed, self.planned = (), 0.0  # bytes that a step keeps
        if case.training:
            trained = self.model.trained().parameters()
            self.optim = torch.optim.SGD(trained, lr=1e-5, momentum=0.9)
        if case.training and not case.naive:
            budget = memory_budget(case.memory_budget, torch.device(case.device))
            plan = self.model.fit_memory(budget, case.batch, self.precision.itemsize)
            self.recomputed, self.planned = plan.recompute, plan.needed
        if case.compile and not case.naive and (obstacle := self.model.compile_blocks()):
            raise UserError(f"--compile does not work here ({obstacle}): leave it out")

    def step(self):
        """A training step, as the trainers make it."""
        batch = self.method.batch([self.images] * self.method.views, self.labels)
        if self.case.naive:
            with self.precision.autocast():
                output = self.net.output(self.images)
                terms = self.method.terms(output, batch)
            update(self.method, terms, self.optim, self.precision)
        else:
            output, _ = training_step(self.method, batch, self.optim, self.precision)
        self.logits = output.logits.detach()

    def first_step(self) -> list:
        """A step with a strict solver: its logits, to be compared."""
        if not self.case.spec.N:  # the text features are constant: later steps find them kept
            self.encode_text()
        spec = self.net.spec
        self.net.spec = spec.with_(tol=CHECK_TOLERANCE)
        self.step()
        self.net.spec = spec
        return self.logits.tolist()

    def necessary(self) -> dict[str, int]:
        return necessary_flops(self.method, self.case.batch)

    def about(self) -> dict:
        """What the model chose by itself, and where it runs."""
        cuda = self.case.device == "cuda"
        return {
            "recomputed": list(self.recomputed),
            "device": torch.cuda.get_device_name() if cuda else processor(),
        }

    def prepare_score(self):
        """Features of the images and the classes, apart from what made them."""
        with torch.no_grad(), self.precision.autocast():
            contexts = self.model.prompt_learner()
            self.features = [
                self.model.image_encoder(self.images, contexts.vision),
                self.model.text_encoder(contexts.text),
            ]

    def score(self):
        """The scores of a step from its features, and their gradient."""
        spec = self.case.spec
        image, text = self.features
        image = with_gradient(image, ("z", "r"), spec.M)
        text = with_gradient(text, ("h", "raw", "s"), spec.N)
        with self.precision.autocast():
            logits = self.model.score(image, text)
        F.cross_entropy(logits, self.labels).backward()

    @torch.no_grad()
    def evaluate(self):
        with self.precision.autocast():
            self.net(self.images)

    @torch.no_grad()
    def encode_images(self):
        """The image encoder alone, under the same visual prompts."""
        with self.precision.autocast():
            vision = self.model.prompt_learner().vision if self.case.spec.M else None
            self.model.image_encoder(self.images, vision)

    def encode_text(self):
        """The text features, which evaluation keeps."""
        with self.precision.autocast():
            self.model.text_features()


def with_gradient(features, names, wanted):
    """The features as leaves, of which `names` ask for their gradient where it is wanted."""
    leaves = {
        name: getattr(features, name).detach().requires_grad_(bool(wanted))
        for name in names
        if getattr(features, name) is not None
    }
    return features._replace(**leaves)


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try:
        return re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    except (OSError, TypeError):
        return "the CPU"


class OutOfMemory(Exception):
    """A case does not fit into this machine."""


class Worker:
    """A subject in a process of its own, asked by the names of its methods.

    Its first answer is that it is ready.

    Args:
        make: the subject's class; args: for its constructor.
    """

    def __init__(self, make: Callable[..., Subject], *args):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, make, args), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, method: str, *args):
        """What the method returns; raises as `answer`."""
        with suppress(BrokenPipeError):  # told by the answer
            self.pipe.send((method, args))
        return self.answer()

    def answer(self):
        """The next answer.

        Raises:
            OutOfMemory: the process ran out of memory; it is gone.
            UserError: the case cannot be built.
        """
        try:
            error, answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):  # the system ends who takes too much
            raise OutOfMemory from None
        if error:
            self.close()
            raise {"memory": OutOfMemory, "user": UserError}.get(error, RuntimeError)(answer)
        return answer

    def close(self):
        self.pipe.close()
        self.process.join(10)
        self.process.kill()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def serve(pipe, make, args):
    """The process of a `Worker`: answers with the kind of an error or None, and what there is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends it through its parent
    try:
        subject = make(*args)
        pipe.send((None, None))
        while True:
            method, arguments = pipe.recv()
            if subject.device == "cpu":
                limit_memory()
            pipe.send((None, getattr(subject, method)(*arguments)))
    except EOFError:
        return
    except UserError as error:
        pipe.send(("user", str(error)))
    except Exception as error:
        pipe.send(("memory", "") if is_out_of_memory(error) else ("bug", traceback.format_exc()))


def is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def limit_memory():
    """Let this process take no more than is free now, lest the system end another one.

    Only Linux tells how much that is.
    """
    try:
        free = kibibytes("/proc/meminfo", "MemAvailable")
        own = kibibytes("/proc/self/status", "VmData")
    except (OSError, TypeError):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, ((own + free) << 10, hard))


def kibibytes(path: str, key: str) -> int:
    return int(re.search(rf"^{key}:\s+(\d+) kB", Path(path).read_text(), re.M)[1])
