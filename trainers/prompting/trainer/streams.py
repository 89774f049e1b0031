"""Streams of test images: their order, and the batches or tasks that they come in (TEST.STREAM).

Tasks of few classes, and shares of classes that change, are StatA's (Zanella et al., CVPR 2025).
Tasks equal its public code's with the same seed; shares have no seed there (docs/metrics.md).
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from ..building.keys import SHUFFLED
from ..capabilities.at_test_time import AtTestTime, learns_from_stream, reset
from ..capabilities.transductive import Seen, Transductive
from ..errors import UserError, need
from ..method import Method, Output
from ..storage.run_record import DRAWN, order_path, stream_text
from .loaders import GeneratedLoader, loader_like

TASKS = 1000
WHOLE = "([1-9][0-9]{0,8})"
FORMS = (
    "shuffled, few:LOW-HIGH:SIZE[:TASKS], stream:GAMMA:SIZE, separate:SIZE, or a file of rows as "
    "FILE or FILE:SIZE; numbers are above 0, LOW up to HIGH, and SIZE up to the number of images"
)


class Stream(NamedTuple):
    """Test images in the order in which they come.

    batches: rows of the split, those that come together. tasks: True if each batch is a task of its
    own, in which images of others recur; else the batches have each image once. name: of records.
    """

    batches: Sequence[np.ndarray]
    tasks: bool = False
    name: str = SHUFFLED

    @property
    def order(self) -> list[int]:
        """The rows, one after the other."""
        return np.concatenate(self.batches).tolist()

    @property
    def digest(self) -> str:
        """A hash of the order and the sizes of batches."""
        text = ";".join(",".join(map(str, batch.tolist())) for batch in self.batches)
        return hashlib.sha256(text.encode()).hexdigest()


def takes_streams(kind: type[Method]) -> bool:
    """Return True for a method whose predictions depend on other test images."""
    in_order = issubclass(kind, AtTestTime) and bool(kind.stream)
    return in_order or issubclass(kind, Transductive)


def check_stream(method: Method, dataset: Any, cfg: CfgNode) -> None:
    """Refuse a TEST.STREAM that does not fit the run; raises UserError, as `read_stream`."""
    text, name = cfg.TEST.STREAM, type(method).__name__
    if text == SHUFFLED:
        return
    need(
        takes_streams(type(method)),
        f"TEST.STREAM is '{text}', but {name} classifies each image by itself, so that no order "
        "changes anything: leave it out, or choose a method that adapts, such as TDA or StatA",
    )
    stream = stream_in(cfg, dataset.val if cfg.TEST.SPLIT == "val" else dataset.test)
    need(
        not (stream.tasks and cfg.TEST.OOD),
        f"Images recur in the tasks of TEST.STREAM {text}: leave TEST.OOD out",
    )
    need(
        cfg.TEST.PREDICTIONS or not stream.tasks,
        "TEST.STREAM counts right answers by task: set TEST.PREDICTIONS True",
    )


def stream_in(cfg: CfgNode, items: Sequence[Any]) -> Stream:
    """Return the stream of a split's items that TEST.STREAM and the seed give."""
    labels = np.array([item.label for item in items])
    stream = read_stream(cfg.TEST.STREAM, labels, max(cfg.SEED, 0))
    return stream._replace(name=stream_text(cfg.TEST.STREAM))


def read_stream(text: str, labels: np.ndarray, seed: int) -> Stream:
    """Return the stream that a value of TEST.STREAM gives for images with these labels, (N,).

    Examples:
        >>> labels = np.array([0, 1, 0, 1, 2])
        >>> stream = read_stream("few:1-2:2:10", labels, seed=1)
        >>> len(stream.batches), max(map(len, stream.batches)), stream.tasks
        (10, 2, True)
        >>> labels[read_stream("separate:2", labels, seed=1).order].tolist()
        [2, 1, 1, 0, 0]
    """
    random, wrong = np.random.RandomState(seed), f"TEST.STREAM is '{text:.60}' but must be {FORMS}"
    if match := re.fullmatch(f"few:{WHOLE}-{WHOLE}:{WHOLE}(?::{WHOLE})?", text):
        low, high, size, count = (TASKS if x is None else int(x) for x in match.groups())
        need(low <= high, wrong)
        return Stream([*draw_tasks(labels, low, high, size, count, random)], tasks=True)
    size = int(match[1]) if (match := re.search(f":{WHOLE}$", text)) else 0
    if match := re.fullmatch(f"(?:stream:([0-9.e-]+)|separate):{WHOLE}", text):
        gamma = float(match[1]) if match[1] else None
        need(size <= len(labels) and gamma != 0, wrong)
        shares = np.random.default_rng(seed)
        order = np.concatenate([*draw_parts(labels, gamma, size, random, shares)])
    else:
        need(text.partition(":")[0] not in DRAWN, wrong)
        order = read_order(order_path(text), len(labels), wrong)
    return Stream(np.split(order, range(size, len(order), size)) if size else [order])


def rows_by_class(labels: np.ndarray) -> list[np.ndarray]:
    """Return the rows of the images of each class, in their order."""
    return [np.flatnonzero(labels == k) for k in np.unique(labels)]


def draw_tasks(
    labels: np.ndarray, low: int, high: int, size: int, count: int, random: np.random.RandomState
) -> Iterator[np.ndarray]:
    """Yield tasks: at most `size` images of `low` to `high` classes, all if there are no more."""
    rows = rows_by_class(labels)
    for _ in range(count):
        k = random.randint(low, high + 1)
        chosen = rows
        if k < len(rows):
            chosen = [rows[i] for i in random.choice(len(rows), k, replace=False)]
        pool = np.concatenate(chosen)
        task = random.choice(pool, size, replace=False) if len(pool) >= size else pool
        random.shuffle(task)
        yield task


def draw_parts(
    labels: np.ndarray,
    gamma: float | None,
    size: int,
    random: np.random.RandomState,
    shares: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Yield the parts of a stream of N images, each shuffled.

    There are N // size, but no more than classes; a class is shared out over them by a draw from
    Dirichlet(gamma). With a gamma of None, a part has one class, in random order.
    """
    rows = rows_by_class(labels)
    if gamma is None:
        parts = [rows[k] for k in random.permutation(len(rows))]
    else:
        slots = min(len(labels) // size, len(rows))
        cut = []
        for own in rows:
            ends = np.cumsum(shares.dirichlet([gamma] * slots))[:-1] * len(own)
            cut.append(np.split(own, ends.astype(int)))
        parts = [np.concatenate(pieces) for pieces in zip(*cut, strict=True)]
    for part in parts:
        random.shuffle(part)
        yield part


def read_order(path: str, n: int, wrong: str) -> np.ndarray:
    """Return the rows in a TEST.STREAM's file, one a line, from 0; raises UserError if not n."""
    try:
        order = np.array(Path(path).read_text("utf-8").split(), dtype=int)
    except (OSError, OverflowError, ValueError):
        raise UserError(wrong) from None
    need(
        np.array_equal(np.sort(order), np.arange(n)),
        f"'{path}' of TEST.STREAM must name each row from 0 to {n - 1} once",
    )
    return order


# ---------------------------------------------------------------------- loaders of a trainer


def arranged_loader(trainer: Any, split: str) -> Any:
    """Return the loader of a split, `test` or `val`, with the images as its method takes them.

    Those of TEST.SPLIT come as TEST.STREAM says. The `stream` of the loader says how, if there is
    something to say.
    """
    method, cfg, data = trainer.method, trainer.cfg, trainer.dm.dataset
    loader: DataLoader | None = getattr(trainer, f"{split}_loader")
    joint = isinstance(method, Transductive)
    if loader is None or not (joint or learns_from_stream(method)):
        return loader
    how: Any = {"batch_size": loader.batch_size}
    if cfg.TEST.STREAM == SHUFFLED or split != cfg.TEST.SPLIT:
        stream = None if joint else Stream([np.array(loader.sampler)])
        every = np.arange(len(loader.dataset))  # type: ignore[arg-type]
        arranged: Any = read_first(trainer, loader, [every]) if joint else loader
    else:
        stream = stream_in(cfg, data.val if split == "val" else data.test)
        if joint or stream.tasks:
            plain = loader_like(loader, loader.dataset, **how)
            arranged = read_first(trainer, plain, stream.batches)
        else:
            arranged = loader_like(loader, loader.dataset, sampler=stream.order, **how)
    arranged.stream = stream
    return arranged


def read_first(trainer: Any, loader: Any, groups: Sequence[np.ndarray]) -> GeneratedLoader:
    """Return a loader of batches with outputs, which are computed after all images were read.

    Args:
        trainer: whose `parse_batch_train` and `precision` are used.
        loader: of all images in order.
        groups: rows of the images that are classified jointly, or after each other by a method
            with a memory, which is empty before each group.
    """
    size = loader.batch_size

    def generate() -> Iterator[dict[str, Any]]:
        files, labels, seen = list[str](), [], []
        for batch in loader:
            views, label = trainer.parse_batch_train(batch)
            with trainer.precision.autocast():
                seen.append(see(trainer.method, views))
            files += batch["impath"]
            labels.append(label)
        raw, label = torch.cat([batch.raw for batch in seen]), torch.cat(labels)
        priors = [batch.prior for batch in seen if batch.prior is not None]
        prior = torch.cat(priors) if priors else None
        for group in groups:
            rows = torch.as_tensor(group, device=raw.device)
            own = Seen(raw[rows], None if prior is None else prior[rows])
            output = classify(trainer, own)
            for start in range(0, len(rows), size):
                part = slice(start, start + size)
                yield {
                    "img": own.raw[part], "label": label[rows[part]],
                    "impath": [files[i] for i in group[part]], "output": rows_of(output, part),
                }  # fmt: skip

    return GeneratedLoader(generate, sum(-(-len(rows) // size) for rows in groups))


def see(method: Method, views: list[torch.Tensor]) -> Seen:
    """Return what is kept of a batch; of a method with a memory raw (B, V, D) of V views."""
    if isinstance(method, Transductive):
        return method.see(views[0])
    return Seen(torch.stack([method.clip_features(view) for view in views], 1), None)


def classify(trainer: Any, seen: Seen) -> Output:
    """Return the output for the images of a group."""
    method = trainer.method
    with trainer.precision.autocast():
        if isinstance(method, Transductive):
            return method.transduce([seen])
        reset(method)
        views = [*seen.raw.unbind(1)]
        output: Output = method.predict(views if len(views) > 1 else views[0])
    return output


def rows_of(output: Output, part: slice) -> Output:
    """Return some rows of an output."""
    image = output.image
    raw = None if image.raw is None else image.raw[part]
    return Output(output.logits[part], image._replace(z=image.z[part], raw=raw), output.text)
