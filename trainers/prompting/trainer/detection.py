"""Out-of-distribution detection: scores of the run's own images and of those of other data sets.

MCM (Ming et al. 2022, arXiv:2211.13445) is the maximum over classes of the softmax of the cosines,
at temperature 1. GL-MCM (Miyai et al. 2023, arXiv:2304.04521) adds the maximum over patches and
classes of the same softmax for each patch. An image of the run's classes should score higher than
one of other classes.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from dassl.data import DataManager
from yacs.config import CfgNode

from ..capabilities.at_test_time import reset
from ..capabilities.transductive import NOT_ITS_OWN, Transductive
from ..errors import UserError
from ..method import Method, Output
from ..node import clean
from ..record.metrics import detection
from ..record.predictions import confidence
from .loaders import prepare_loader, resize_in

Columns = dict[str, torch.Tensor]  # `mcm`, and `gl_mcm` where a method has patches: (n,)


def scores(method: Method, output: Output) -> Columns:
    """Return the scores (B,) of B images from a method's output.

    MCM's cosines are the method's similarities: its logits without their scale. The cosine of a
    patch and a class is the mean over visual and textual prompts, computed as the product of the
    mean features; states of visual prompts do not count as patches. `Method.cosines` may replace
    both.
    """
    if (cosines := method.cosines(output.image, output.text)) is not None:
        mcm = confidence(cosines[0])
        return {"mcm": mcm, "gl_mcm": mcm + confidence(cosines[1]).amax(1)}
    columns = {"mcm": confidence(output.logits / method.logit_scale)}
    if (r := output.image.r) is not None:
        patches = r[:, :, : method.image_encoder.num_patches].float().mean(1)
        h = output.text.h.float()
        h = h if method.conditional else h.mean(0, keepdim=True)
        local = patches @ h.mT  # (B, P, K)
        columns["gl_mcm"] = columns["mcm"] + confidence(local).amax(1)
    return columns


class Detection:
    """Evaluates the data sets in TEST.OOD after the run's own images.

    Their test images are compared with the classes of the run. All of their classes are used, for
    any DATASET.SUBSAMPLE_CLASSES.

    Attributes:
        columns: scores of the last evaluation by data set, the run's own included.
    """

    def __init__(self, cfg: CfgNode, kind: type[Method], dataset):
        """List the images of the data sets, without reading them yet."""
        self.own, names = cfg.DATASET.NAME, cfg.TEST.OOD
        if names and issubclass(kind, Transductive):
            print(f"TEST.OOD is left out: the logits of {kind.__name__} {NOT_ITS_OWN}")
            names = []
        self.columns: dict[str, Columns] = {}
        self._batches: dict[str, list[torch.Tensor]] | None = None  # while images are scored
        self.fingerprints: dict[str, str | None] = {}
        self._loaders = {}
        for name in names:
            data = load_other_data(cfg, name, dataset.classnames)
            check_files(name, data.dataset.test, [*dataset.test, *(dataset.val or ())])
            self._loaders[name] = data.test_loader
            self.fingerprints[name] = getattr(data.dataset, "fingerprint", None)

    def prepare(self, method: Method, cfg: CfgNode) -> None:
        """Read the images as the method takes them."""
        for name, loader in self._loaders.items():
            self._loaders[name] = prepare_loader(loader, method, cfg)

    def begin(self, split: str | None) -> None:
        """Begin an evaluation; validation between epochs (a `split` is given) is not scored."""
        self.columns = {}
        self._batches = defaultdict(list) if self._loaders and split is None else None

    def see(self, method: Method, output: Output) -> None:
        """Score a batch, if `begin` has asked for it."""
        if self._batches is not None:
            for name, values in scores(method, output).items():
                self._batches[name].append(values)

    @torch.no_grad()
    def evaluate_others(self, trainer) -> None:
        """Keep the scores of the run's own images, then evaluate the other data sets.

        `model_inference` of the trainer calls `see`.
        """
        if self._batches is None:
            return
        self._keep(self.own)
        for name, loader in self._loaders.items():
            print(f"Evaluate on {name}, whose classes are not those of the run")
            self._batches = defaultdict(list)
            reset(trainer.method)
            for batch in loader:
                trainer.model_inference(trainer.parse_batch_test(batch)[0])
            trainer.watch.check_logits()
            self._keep(name)

    def measure(self) -> dict[str, Any]:
        """Print the metrics of the last evaluation, and return them for the record."""
        others = {
            name: {k: x.numpy() for k, x in each.items()} for name, each in self.columns.items()
        }
        own, ood = others.pop(self.own, {}), {}
        for name, arrays in others.items():
            measured = ood[name] = detection(own, arrays)
            texts = "; ".join(
                f"{score.upper().replace('_', '-')}: AUROC {measured[f'auroc_{score}']:.2f}%, "
                f"FPR95 {measured[f'fpr95_{score}']:.2f}%"
                for score in own
            )
            print(f"Out of distribution: {name} ({measured['images']:,} images): {texts}")
        return {"ood": ood, "ood_fingerprints": self.fingerprints} if ood else {}

    def _keep(self, name: str) -> None:
        assert self._batches is not None
        self.columns[name] = {key: torch.cat(x).cpu() for key, x in self._batches.items()}
        self._batches = None


def check_files(name: str, others: Iterable[Any], own: Iterable[Any]) -> None:
    """Raise UserError if an image of another data set is one of the run, also by a link."""
    files = {os.path.realpath(item.impath) for item in own}
    if shared := [item.impath for item in others if os.path.realpath(item.impath) in files]:
        raise UserError(
            f"TEST.OOD names {name}, which has {len(shared):,} of the images of this run, such as "
            f"'{shared[0]}': name data sets of other images"
        )


def load_other_data(cfg: CfgNode, name: str, classnames: list[str]) -> DataManager:
    """Return a data set that shares no class with the run, and is read in the same way."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATASET.update(NAME=name, NUM_SHOTS=-1, SUBSAMPLE_CLASSES="all")
    cfg.TEST.OOD = []  # of a run of its own
    cfg.DATALOADER.TRAIN_X.SAMPLER = "SequentialSampler"  # accepts any data; it is not trained on
    cfg.VERBOSE = False
    data = DataManager(cfg)
    resize_in(data, cfg)
    names = {clean(name).lower() for name in classnames}
    if shared := [f"'{c}'" for c in data.dataset.classnames if clean(c).lower() in names]:
        examples = ", ".join(shared[:3]) + ", ..." * (len(shared) > 3)
        raise UserError(
            f"TEST.OOD names {name}, which shares {len(shared)} of its classes with this run "
            f"({examples}): name data sets of other classes"
        )
    return data
