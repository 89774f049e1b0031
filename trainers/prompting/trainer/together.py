"""Evaluations of methods that classify all test images together."""

from collections.abc import Iterator
from typing import Any

from yacs.config import CfgNode

from ..capabilities.transductive import Transductive
from ..contract import first_use
from ..method import Method, Output

NOT_ITS_OWN = "depend on the other test images"


class Together:
    """The batches of a loader, after all of its images have been classified together.

    `parse_batch_train` and `precision` of the trainer are used.
    """

    def __init__(self, trainer: Any, loader: Any):
        self.trainer, self.loader = trainer, loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Read all images once, then yield the batches, of features, with their outputs."""
        trainer, method, batches, seen = self.trainer, self.trainer.method, [], []
        for batch in self.loader:
            images = trainer.parse_batch_train(batch)[0][0]
            with trainer.precision.autocast(), first_use(method):
                seen.append(method.see(images))
            batches.append(batch | {"img": seen[-1].raw})
        with first_use(method):
            output = method.together(seen)
        sizes = [len(batch.raw) for batch in seen]
        for batch, part in zip(batches, parts(output, sizes), strict=True):
            yield batch | {"output": part}


def parts(output: Output, sizes: list[int]) -> Iterator[Output]:
    """Yield the rows of an output, batch by batch."""
    end = 0
    for size in sizes:
        start, end = end, end + size
        image = output.image
        raw = image.raw[start:end]  # type: ignore[index]
        image = image._replace(z=image.z[start:end], raw=raw)
        yield Output(output.logits[start:end], image, output.text)


def for_detection(cfg: CfgNode, kind: type[Method]) -> CfgNode:
    """Return the cfg by which other data sets are scored: of a `Transductive` method, none."""
    if not cfg.TEST.OOD or not issubclass(kind, Transductive):
        return cfg
    print(f"TEST.OOD is left out: the logits of {kind.__name__} {NOT_ITS_OWN}")
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.OOD = []
    return cfg
