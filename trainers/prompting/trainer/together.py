"""Evaluations of images that are all read before they are classified: together, or in tasks."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from yacs.config import CfgNode

from ..capabilities.transductive import NOT_ITS_OWN, Seen, Transductive
from ..contract import first_use
from ..method import Method, Output
from .loaders import loader_like
from .streams import SHUFFLED, Stream, stream_in


def in_stream(trainer: Any, split: str) -> Any:
    """Return the loader of a split, `test` or `val`, with the images as its method takes them.

    Those of TEST.SPLIT come as TEST.STREAM says. The `stream` of the loader says how, if there is
    something to say.
    """
    method, cfg, data = trainer.method, trainer.cfg, trainer.dm.dataset
    loader: DataLoader | None = getattr(trainer, f"{split}_loader")
    together = isinstance(method, Transductive)
    if loader is None or not (together or method.stream):
        return loader
    size = loader.batch_size
    if cfg.TEST.STREAM == SHUFFLED or split != cfg.TEST.SPLIT:
        stream = None if together else Stream([np.array(loader.sampler)])
        arranged: Any = Together(trainer, loader) if together else loader
    else:
        stream = stream_in(cfg, data.val if split == "val" else data.test)
        how: Any = {"batch_size": size}
        if together or stream.tasks:
            plain = loader_like(loader, loader.dataset, **how)
            arranged = Together(trainer, plain, stream.batches)
        else:
            arranged = loader_like(loader, loader.dataset, sampler=stream.order, **how)
    arranged.stream = stream
    return arranged


class Together:
    """The images of a loader, with outputs that are computed after all were read, in batches.

    Args:
        trainer: whose `parse_batch_train` and `precision` are used.
        loader: of all images in order.
        groups: rows of the images that are classified together, or after each other by a method
            with a memory, which is empty before each group; None: all.
    """

    stream: Stream | None = None

    def __init__(self, trainer: Any, loader: Any, groups: Sequence[np.ndarray] | None = None):
        self.trainer, self.loader = trainer, loader
        self.groups = [np.arange(len(loader.dataset))] if groups is None else groups

    def __len__(self) -> int:
        size = self.loader.batch_size
        return sum(-(-len(rows) // size) for rows in self.groups)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read all images once, then yield batches, of features, with their outputs."""
        trainer, size = self.trainer, self.loader.batch_size
        files, labels, seen = list[str](), [], []
        for batch in self.loader:
            views, label = trainer.parse_batch_train(batch)
            with trainer.precision.autocast(), first_use(trainer.method):
                seen.append(self._see(views))
            files += batch["impath"]
            labels.append(label)
        raw, label = torch.cat([batch.raw for batch in seen]), torch.cat(labels)
        priors = [batch.prior for batch in seen if batch.prior is not None]
        prior = torch.cat(priors) if priors else None
        for group in self.groups:
            rows = torch.as_tensor(group, device=raw.device)
            own = Seen(raw[rows], None if prior is None else prior[rows])
            with first_use(trainer.method):
                output = self._classify(own)
            for start in range(0, len(rows), size):
                part = slice(start, start + size)
                yield {
                    "img": own.raw[part], "label": label[rows[part]],
                    "impath": [files[i] for i in group[part]], "output": rows_of(output, part),
                }  # fmt: skip

    def _see(self, views: list[torch.Tensor]) -> Seen:
        """Return what is kept of a batch; of a method with a memory raw (B, V, D) of V views."""
        method = self.trainer.method
        if isinstance(method, Transductive):
            return method.see(views[0])
        return Seen(torch.stack([method.clip_features(view) for view in views], 1), None)

    def _classify(self, seen: Seen) -> Output:
        method = self.trainer.method
        if isinstance(method, Transductive):
            return method.together([seen])
        method.reset()
        views = [*seen.raw.unbind(1)]
        with self.trainer.precision.autocast():
            output: Output = method.predict(views if len(views) > 1 else views[0])
        return output


def rows_of(output: Output, part: slice) -> Output:
    """Return some rows of an output."""
    image = output.image
    raw = None if image.raw is None else image.raw[part]
    return Output(output.logits[part], image._replace(z=image.z[part], raw=raw), output.text)


def for_detection(cfg: CfgNode, kind: type[Method]) -> CfgNode:
    """Return the cfg by which other data sets are scored: of a `Transductive` method, none."""
    if not cfg.TEST.OOD or not issubclass(kind, Transductive):
        return cfg
    print(f"TEST.OOD is left out: the logits of {kind.__name__} {NOT_ITS_OWN}")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.OOD = []
    return cfg
