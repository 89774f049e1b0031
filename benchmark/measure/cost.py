"""Estimate what a run will cost from its settings: operations, seconds and memory.

docs/scaling.md describes the model, what it leaves out, and how it was checked.
"""

import json
import math
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import torch

from recipe.settings import build_cfg
from trainers.prompting import load_clip
from trainers.prompting.backbones.openai import EMBEDDED
from trainers.prompting.errors import UserError, check_name, in_short
from trainers.prompting.method import METHODS
from trainers.prompting.running.memory import GIB, ITEMSIZE, memory_budget
from trainers.prompting.trainer.config import read_node, values_in
from trainers.prompting.trainer.schedule import steps

from ..data.check_data import public_datasets
from ..protocols.base import Run
from ..protocols.configs import dataset_name
from .case import product_rate
from .geometry import GEOMETRY, class_names, evaluation_flops, necessary_flops, weightless_clip

OVER_NECESSARY = 1.03  # operations counted in a real step, over the necessary ones
TFLOPS = 1e12


class Device(NamedTuple):
    """A GPU or CPU with the rates that an estimate needs.

    half, single: operations per second of its matrix products in half precision and in float32;
    efficiency: the share of these that a step reaches; step: least seconds of a step, since kernels
    are launched one after the other; start: seconds of a run before its first step; memory: bytes.
    """

    title: str
    half: float
    single: float
    efficiency: float
    step: float
    start: float
    memory: int


# Peak rates of dense products as the manufacturers state them. Efficiency, step and start of GPUs
# are assumptions; those of the CPU are measured.
GPUS = {
    "h100": Device("H100 SXM", 989 * TFLOPS, 67 * TFLOPS, 0.35, 0.04, 20, 80 * GIB),
    "a100": Device("A100 80 GB", 312 * TFLOPS, 19.5 * TFLOPS, 0.4, 0.05, 20, 80 * GIB),
    "rtx4090": Device("RTX 4090", 165 * TFLOPS, 82.6 * TFLOPS, 0.4, 0.04, 20, 24 * GIB),
}
CPU_EFFICIENCY, CPU_STEP, CPU_START = 0.78, 0.0, 8.0


class Facts(NamedTuple):
    """Counts of a data set: classes, training images (None: enough for the shots), test images."""

    classes: int
    train: int | None
    test: int


class Cost(NamedTuple):
    """The cost of one run: operations, seconds, and bytes of weights and activations."""

    operations: float
    seconds: float
    bytes: float


class Operations(NamedTuple):
    """Operations of a method on a backbone.

    training: of a training step; bytes: kept by a step for its backward pass; weights: their number
    in the CLIP; text, image: of an evaluation, once and for each image; passes: how often each
    training image is encoded before the first step.
    """

    training: float
    bytes: float
    weights: int
    text: float
    image: float
    passes: int


@cache
def device(name: str) -> Device:
    """Return a device: a GPU by its name or by the file that scripts/gpu_report.sh wrote, or `cpu`.

    For `cpu` the rates of this machine's processor are measured.

    Raises:
        UserError: there is no such name or file.
    """
    if name.endswith(".json"):
        return measured_gpu(Path(name))
    if name != "cpu":
        return GPUS[check_name("GPU", name, [*GPUS, "cpu"])]
    product_rate("cpu", "fp32", 2048)
    half, single = (product_rate("cpu", precision, 2048) for precision in ("amp", "fp32"))
    memory = 4 * memory_budget(0, torch.device("cpu"))
    threads = torch.get_num_threads()
    title = f"{threads} {'thread' if threads == 1 else 'threads'} of {single / 1e9:.0f} GFLOP/s"
    return Device(title, half, single, CPU_EFFICIENCY, CPU_STEP, CPU_START, memory)


def measured_gpu(path: Path) -> Device:
    """Return a GPU with the rates in a file of scripts/gpu_report.sh.

    Raises:
        UserError: the file is missing, or is not such a file.
    """
    try:
        found = Device(**json.loads(path.read_text()))
        if not all(0 < value < math.inf for value in found[1:]):
            raise ValueError("its rates must be above 0")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"--gpu '{path}' is not a file of rates ({in_short(error)}): give one that "
            "scripts/gpu_report.sh wrote to docs/gpu"
        ) from None
    return found


def cost(run: Run, keys: Mapping[str, object], on: Device, root: Path | None) -> Cost:
    """Estimate the cost of a run.

    Args:
        run: of a protocol.
        keys: values that its config file and the command line set, by dotted key.
        on: the device.
        root: the folder of the data sets, for those without published counts.

    Raises:
        UserError: the operations of the backbone are not known, or settings are invalid.
    """
    names = {"TRAINER.NAME": run.trainer, "DATASET.NAME": dataset_name(run.dataset)}
    cfg = build_cfg([("the config", {**keys, **names})])
    kind = METHODS[check_name("method", run.trainer, METHODS)]
    with redirect_stdout(StringIO()):  # the run itself reports ignored settings
        values = values_in(cfg, kind)
    data = facts(run.dataset, root)
    half = (data.classes + 1) // 2
    K = {"all": data.classes, "base": half, "new": data.classes - half}[run.subsample]
    images = run.shots * K if data.train is None else min(run.shots * K, data.train)
    batch = max(1, min(cfg.DATALOADER.TRAIN_X.BATCH_SIZE, images))
    node = tuple((key, _hashable(value)) for key, value in sorted(values.items()))
    precision = values["PREC"] or kind.defaults["PREC"]
    if precision == "fp16" and on.step == CPU_STEP:  # as trainers do on a CPU
        precision = "fp32"
    itemsize = ITEMSIZE[precision]
    where = cfg.DATASET.NAME, cfg.MODEL.BACKBONE.NAME
    step = counted(run.trainer, node, *where, K, batch, on.memory, itemsize)
    rate = on.efficiency * (on.single if precision == "fp32" else on.half)

    tested = round(data.test * K / data.classes)
    batches = math.ceil(tested / cfg.DATALOADER.TEST.BATCH_SIZE)
    operations = step.text + tested * step.image
    seconds = on.start + max(operations / rate, batches * on.step)
    taken = step.weights * min(itemsize, 4) + step.bytes
    if kind.trains and not run.eval_only:
        of_epoch = images // batch if cfg.DATALOADER.TRAIN_X.DROP_LAST else -(-images // batch)
        taken_steps = steps(cfg.OPTIM, of_epoch)
        operations += taken_steps * step.training
        seconds += taken_steps * max(step.training / rate, on.step)
    if not run.eval_only:
        before = step.passes * images * step.image
        operations += before
        seconds += before / rate
    return Cost(operations, seconds, taken)


def estimated_seconds(
    runs: Mapping[Run, Mapping[str, object]], gpu: str, root_of: Callable[[str], Path | None]
) -> dict[Run, float]:
    """Estimate the seconds of each run.

    Args:
        runs: runs, each with the values that are set for it, by dotted key.
        gpu: name of a device, as `device` takes it.
        root_of: the folder of the data sets for a data set.
    """
    return {
        run: cost(run, keys, device(gpu), root_of(run.dataset)).seconds
        for run, keys in runs.items()
    }


@cache
def counted(
    trainer: str,
    node: tuple,
    dataset: str,
    backbone: str,
    classes: int,
    batch: int,
    memory: int,
    itemsize: float,
) -> Operations:
    """Count the operations of a method on a backbone, without computing anything.

    Raises:
        UserError: a step does not fit into `memory` bytes.
    """
    kind, names, clip_model = METHODS[trainer], class_names(classes), shape_of(backbone)
    with torch.device("meta"), redirect_stdout(StringIO()):
        settings = read_node(kind, dict(node), dataset)
        method = kind(settings, clip_model, names, dataset)
    training = OVER_NECESSARY * sum(necessary_flops(method, batch).values())
    plan = 0.0
    if kind.trains:
        plan = method.model.fit_memory(int(0.9 * memory), batch, itemsize).needed
    weights = sum(p.numel() for p in clip_model.parameters())
    text, image = evaluation_flops(method)
    return Operations(training, plan, weights, text, image, method.support_passes)


@cache
def shape_of(backbone: str):
    """Return a CLIP by its name, on the meta device: its weights take no memory.

    Raises:
        UserError: the geometry of that CLIP is not known.
    """
    if backbone in EMBEDDED:
        return load_clip(backbone).to("meta")
    if backbone not in GEOMETRY:
        raise UserError(
            f"The operations of '{backbone}' are not known, only those of "
            f"{', '.join([*GEOMETRY, *EMBEDDED])}"
        )
    return weightless_clip(backbone)


@cache
def facts(dataset: str, root: Path | None) -> Facts:
    """Return the published counts of a data set, or those of its files below `root`."""
    known = public_datasets()
    if dataset in known:
        published = known[dataset].expected
        return Facts(published.classes, published.train, published.test)
    from dassl.data.datasets import DATASET_REGISTRY

    cls = DATASET_REGISTRY.get(dataset_name(dataset))
    with redirect_stdout(StringIO()):
        _, (train, _, test) = cls.look(root)
    return Facts(len({item.label for item in train}), len(train), len(test))


def _hashable(value):
    return tuple(value) if isinstance(value, list) else value
