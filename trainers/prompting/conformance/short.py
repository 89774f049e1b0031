"""A short training of a method, on the embedded CLIP and its images, for the checks."""

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from yacs.config import CfgNode

from ..building.build import make
from ..building.config import add_nodes
from ..building.keys import value_at
from ..building.rebuild import for_classes
from ..capabilities.at_test_time import reset
from ..capabilities.on_support import count_passes
from ..capabilities.planned import Planned
from ..embedded import IMAGES
from ..errors import UserError
from ..method import METHODS, Batch, Method, Output
from ..running.memory import Snapshot
from ..running.seeding import seeded
from ..trainer.in_use import InUse
from ..trainer.trainer import PromptTrainer

STEPS, BATCH, SEED = 6, 4, 1
TESTS = 2 * BATCH  # test images
SHORT: dict[str, Any] = {
    "DATASET.NUM_SHOTS": 1,
    "DATASET.SUBSAMPLE_CLASSES": "base",
    "DATALOADER.NUM_WORKERS": 0,
    "DATALOADER.TRAIN_X.BATCH_SIZE": BATCH,
    "DATALOADER.TEST.BATCH_SIZE": BATCH,
    "OPTIM.STEPS": STEPS,
    "OPTIM.WARMUP_EPOCH": 0,
    "TEST.NO_TEST": True,
}
BY_EPOCH = {"OPTIM.STEPS": 0, "OPTIM.MAX_EPOCH": 2}  # at least as many steps
Images = torch.Tensor | list[torch.Tensor]  # of a batch; of several views a list


@cache
def first_images() -> dict[str, list[tuple[bytes, str, str]]]:
    """Return the first image of each embedded class, with its path and class, by part."""
    found = {}
    with zipfile.ZipFile(IMAGES) as file:
        for part, rows in json.loads(file.read("split_emoji.json")).items():
            first = {label: (path, name) for path, label, name in reversed(rows)}
            found[part] = [
                (file.read(f"images/{path}"), path.replace("/", "_"), name)
                for _, (path, name) in sorted(first.items())
            ]
    return found


@DATASET_REGISTRY.register()
class OneOfEach(DatasetBase):
    """An embedded image of each base class for training, and one for validation, in ROOT.

    Those of the test are written by `write_tests`.
    """

    def __init__(self, cfg: CfgNode):
        self.root = Path(cfg.DATASET.ROOT)
        self.root.mkdir(parents=True, exist_ok=True)
        first = {
            part: [Datum(str(self.root / path), k, 0, name) for k, (_, path, name) in enumerate(of)]
            for part, of in first_images().items()
        }
        half = -(-len(first["train"]) // 2)
        self.other_classnames = [item.classname for item in first["train"][half:]]
        self.validation = first["val"][:half]
        self._write("train")
        self._write("val", half)
        super().__init__(
            train_x=first["train"][:half], train_u=first["train"], val=self.validation,
            test=first["test"][:TESTS],
        )  # fmt: skip

    def _write(self, part: str, count: int | None = None) -> None:
        for content, path, _ in first_images()[part][:count]:
            (self.root / path).write_bytes(content)

    def write_tests(self) -> None:
        """Write the test images, which nothing may read before."""
        self._write("test", TESTS)


def short_keys(name: str) -> dict[str, Any]:
    """Return the settings of a short training; a method that plans its steps counts epochs."""
    return SHORT | (BY_EPOCH if issubclass(METHODS.get(name, Method), Planned) else {})


def shorten(given: CfgNode, folder: str, values: Mapping[str, Any] | None = None) -> CfgNode:
    """Return the cfg of a short training of the method of a run, in float32 on the CPU.

    It has the optimiser, augmentations and keys of the method, or other `values` of these, by name.
    """
    kind, cfg = METHODS[given.TRAINER.NAME], get_cfg_default()
    add_nodes(cfg)
    cfg.OPTIM, cfg.INPUT = given.OPTIM.clone(), given.INPUT.clone()
    cfg.DATALOADER.K_TRANSFORMS = given.DATALOADER.K_TRANSFORMS
    keys = {place: value_at(given, place) for place in map(kind.place, kind.defaults)}
    if values is not None:
        keys = {kind.place(key): x for key, x in (kind.defaults | dict(values)).items()}
    own: dict[str, Any] = {
        "DATASET.NAME": "OneOfEach", "DATASET.ROOT": folder, "OUTPUT_DIR": folder, "SEED": SEED,
        "MODEL.BACKBONE.NAME": "emoji", "TRAINER.NAME": kind.__name__, "USE_CUDA": False,
        kind.place("PREC"): "fp32",
    }  # fmt: skip
    for place, value in (keys | short_keys(kind.__name__) | own).items():
        *path, key = place.split(".")
        node = cfg
        for part in path:
            node = node.setdefault(part, CfgNode())
        node[key] = value
    return cfg


class RebuiltLater(InUse):
    """Keeps what is wrong for `check_again`, as other checks may know the cause."""

    wrong: UserError | None = None

    def rebuild(self) -> None:
        """Check that the method computes the same when it is built again."""
        try:
            super().rebuild()
        except UserError as error:
            self.wrong = self.wrong or error


class ShortTrainer(PromptTrainer):
    """A trainer that keeps the losses of its steps, and evaluates nothing."""

    uses = RebuiltLater

    def __init__(self, cfg: CfgNode):
        self.of_steps: list[torch.Tensor] = []
        super().__init__(cfg)

    def test(self, split=None, is_final=False):
        """Do nothing."""

    def forward_backward(self, batch):
        """Do a step."""
        terms = super().forward_backward(batch)
        self.of_steps.append(terms["loss"])
        return terms


class ShortRun:
    """A short training of a method; `train` does it, and raises a UserError for what it finds.

    Attributes:
        trainer: the `PromptTrainer`.
        printed: what the training has printed.
        losses: of its steps.
        validation: a batch of validation images, as `predict` takes it.
        before: its logits before the training; None if there can be none.
        start: copies of what is learned, by name, from before the training.
        batches: two batches of test images, each as `predict` takes it.
    """

    before: torch.Tensor | None = None
    start: Mapping[str, torch.Tensor] = {}

    def __init__(self, cfg: CfgNode):
        kind, self._log = METHODS[cfg.TRAINER.NAME], io.StringIO()
        short = type(kind.__name__, (ShortTrainer,), {"kind": kind})
        with seeded(SEED), redirect_stdout(self._log):
            self.trainer: Any = short(cfg)
            self._random = torch.get_rng_state()
        self.losses, self.precision = self.trainer.of_steps, self.trainer.precision

    @property
    def method(self) -> Method:
        """The method."""
        method: Method = self.trainer.method
        return method

    @property
    def printed(self) -> str:
        """What the training has printed."""
        return self._log.getvalue()

    def train(self) -> None:
        """Do the training, and put the method into eval mode."""
        trainer, method = self.trainer, self.method
        with seeded(SEED), redirect_stdout(self._log):
            torch.set_rng_state(self._random)
            self.validation = trainer.parse_batch_test(next(iter(trainer.validation)))[0]
            if trainer.num_trained and not count_passes(method):
                with suppress(Exception):  # `begin_stage` may make what predictions need
                    self.before = self.predict(self.validation, method.eval())
                method.train()
            self.start = {name: p.detach().clone() for name, p in method.learned().items()}
            trainer.train()
        self.read_tests()

    def read_tests(self) -> None:
        """Put the method into eval mode, and read the test images."""
        trainer = self.trainer
        trainer.set_model_mode("eval")
        trainer.dm.dataset.write_tests()
        self.batches = [trainer.parse_batch_test(batch)[0] for batch in trainer.test_loader]

    def step_batch(self) -> Batch:
        """Return the first batch of a training step."""
        batch: Batch = self.trainer.batch_of(next(iter(self.trainer.training_images)))
        return batch

    def every_image(self) -> torch.Tensor:
        """Return the training images (K, 3, H, W), in the order of their classes."""
        loader = self.trainer.dm.train_loader_x
        images = loader.dataset
        with seeded(0):
            views = [images[i]["img"] for i in range(len(images))]
        return torch.stack([view[0] if isinstance(view, list) else view for view in views])

    def fresh(self, seed: int | None = SEED, names: Sequence[str] | None = None) -> Method:
        """Return the method as `build` makes it, for its own class names or others.

        Without a seed it takes the random numbers of now.
        """
        trainer, kind = self.trainer, type(self.method)
        names = trainer.dm.dataset.classnames if names is None else names
        with nullcontext() if seed is None else seeded(seed):
            method = make(
                kind, self.method.settings, trainer.clip_model, names, trainer.cfg.DATASET.NAME
            )
        return method

    def for_classes(self, names: Sequence[str]) -> Method:
        """Return the trained method for some class names."""
        trainer = self.trainer
        place = trainer.clip_model, trainer.dm.dataset.classnames, names, trainer.cfg.DATASET.NAME
        return for_classes(self.method, *place)

    @torch.no_grad()
    def output(self, images: Images, method: Method | None = None) -> Output:
        """Return the output of an evaluation of a batch, without `reset`."""
        with self.precision.autocast():
            return (method or self.method).predict(images)

    def predict(self, images: Images, method: Method | None = None) -> torch.Tensor:
        """Return the logits of an evaluation that begins with a batch, and ends with it."""
        method = method or self.method
        reset(method)
        logits = self.output(images, method).logits
        reset(method)
        return logits

    def step(self, batch: Batch, scale: float = 1.0) -> list[torch.Tensor]:
        """Return the gradients of a training step with a scaled loss; the method stays as it is."""
        method = self.method
        state, start = Snapshot(method), {p: p.detach().clone() for p in method.learned().values()}
        method.train().zero_grad()
        try:
            with seeded(0):
                with self.precision.autocast():
                    terms = method.terms(method.output(batch.images), batch)
                method.backward(terms, lambda loss: scale * loss)
        finally:
            method.eval()
            state.restore()
            for p, value in start.items():  # `backward` may set them, as that of HiCroPL does
                p.data.copy_(value)
        gradients = [p.grad.clone() for p in method.learned().values() if p.grad is not None]
        method.zero_grad()
        return gradients

    def in_step(
        self,
        work: Callable[[Method, Output, Batch], Any],
        batch: Batch | None = None,
        seed: int = 0,
    ) -> Any:
        """Return what is computed from the output of a training step, which leaves no trace."""
        method, batch = self.method, batch or self.step_batch()
        state = Snapshot(method)
        method.train()
        try:
            with seeded(seed), self.precision.autocast():
                return work(method, method.output(batch.images), batch)
        finally:
            method.eval()
            state.restore()
