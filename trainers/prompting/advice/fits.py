"""The features of a collection under one CLIP, and fits of methods to rows of them.

Letters: N images, n of them labelled, D the width of the features, K classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..backbones.look_up import LookUp, clip_with
from ..building.build import build_method
from ..capabilities.fitting import descent, train
from ..capabilities.on_support import trains_on_support
from ..capabilities.staged import after_epoch
from ..encoders.class_text import zero_shot_template
from ..errors import need
from ..method import Method

# the settings of each method; none is searched for, which would take labels
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "LPPlusPlus": {"SEARCH_HP": False},
    "GDA": {"SEARCH_HP": False, "ALPHA": 1.0, "AUGMENT_EPOCH": 1},
    "CLAP": {"CONSTRAINT": "l2_balanced", "REPETITIONS": 1},
    # of images with several labels
    "LinearProbe": {"SEARCH_HP": False},
    "ZeroshotCLIP": {},
}
# settings that are compared besides; the weight of GDA's Gaussians falls with the number of rows
COMPARED: Mapping[str, Sequence[Mapping[str, float]]] = {
    "GDA": [{"ALPHA": alpha} for alpha in (1.0, 10.0, 100.0, 1000.0)],
    "LinearProbe": [{"C": C} for C in (1.0, 10.0, 100.0, 1000.0)],
}
RATE, FIRST_RATE, MOMENTUM, EPOCHS = 0.1, 1e-5, 0.9, 300  # of CLAP, as published
TEMPLATE = zero_shot_template("")


@dataclass(frozen=True, eq=False)
class Space:
    """The features of a collection under one CLIP.

    Attributes:
        name: of the CLIP.
        images: (N, D), raw or normalised.
        text: (K, D), of a sentence for each class, not normalised if the CLIP's are not: CLAP
            starts from them.
        scale: of the logits, the factor itself and not its logarithm.
        width: of the CLIP, if that of the features is smaller (`span`); else 0.
    """

    name: str
    images: torch.Tensor
    text: torch.Tensor
    scale: float
    width: int = 0

    def __post_init__(self) -> None:
        for kind, x in (("image", self.images), ("class", self.text)):
            odd = (~x.isfinite().all(1)).nonzero().flatten().tolist()
            need(
                not odd,
                f"{self.name} gives features that are not finite for {len(odd)} of {len(x):,} "
                f"rows, {kind} {odd and odd[0]} first (from 0): compute them again, in float32",
            )

    @cached_property
    def clip_model(self) -> Any:
        """A CLIP whose images are rows and whose classes are called 0, 1, ..., K - 1."""
        sentences = {TEMPLATE.format(k): row for k, row in enumerate(self.text.float())}
        return clip_with(LookUp(self.name, [TEMPLATE], sentences), self.text.shape[1], self.scale)

    def zero_shot(self) -> np.ndarray:
        """Return zero-shot logits, (N, K)."""
        z, h = (F.normalize(x.float(), dim=-1) for x in (self.images, self.text))
        logits: np.ndarray = (self.scale * z @ h.T).numpy()
        return logits

    def fit(
        self, method: str, rows: Any, labels: Any, several: bool = False, **node: Any
    ) -> Method:
        """Return a method that is fitted to n rows, given their index and labels (n,).

        With `several`, labels are (n, K). `node` are settings that differ from SETTINGS.
        """
        node = {**SETTINGS.get(method, {}), **node}
        if method == "GDA" and self.width:  # its precision is proportional to the width
            node["ALPHA"] *= self.width / self.images.shape[1]
        names = [str(k) for k in range(len(self.text))]
        x, y = self.images[rows].float(), torch.as_tensor(labels)
        support = {"images": x, "labels": y}
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # LP++ draws its biases, on the CPU
            given = None if method == "ZeroshotCLIP" else support
            clip_model = self.clip_model
            built = build_method(method, node, clip_model, names, support=given, several=several)
        if trains_on_support(type(built)):
            learned = built.learned()
            optimizer = torch.optim.SGD(learned.values(), RATE, MOMENTUM)
            shares = [(1 + math.cos(math.pi * i / EPOCHS)) / 2 for i in range(EPOCHS + 1)]
            shares[0] = FIRST_RATE / RATE
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, shares.__getitem__)
            step = descent(lambda number: built.losses(x, y)["loss"], optimizer, schedule)
            begin = {name: p.detach().clone() for name, p in learned.items()}
            for epoch in train(learned, begin, step, EPOCHS):
                after_epoch(built, epoch, EPOCHS)
        return built.eval()

    def logits(self, method: str, rows: Any, labels: Any, others: Any, **node: float) -> np.ndarray:
        """Return logits of t rows by a method that is fitted to n rows, (t, K), float64.

        Where a class has no row, CLAP takes the place of the other methods, which need one.
        """
        logits: np.ndarray = self.logits_with([node], method, rows, labels, others)[0]
        return logits

    @torch.no_grad()
    def logits_with(self, nodes: Sequence[Mapping[str, Any]], method: str, *of: Any) -> Any:
        """Return logits as `logits` does, with each of these settings, (S, t, K), by one fit."""
        *support, others = of
        if len(np.unique(support[1])) < len(self.text):
            method, nodes = "CLAP", [{}] * len(nodes)
        model: Any = self.fit(method, *support, **nodes[0])
        found = []
        unit = model.alpha / nodes[0]["ALPHA"] if nodes[0] else 1
        for node in nodes:
            if node:  # they differ in the weight of GDA's Gaussians
                model.alpha.copy_(unit * node["ALPHA"])
            found.append(self.answers(model, others))
        return np.stack(found)

    @torch.no_grad()
    def answers(self, model: Method, rows: Any) -> np.ndarray:
        """Return the logits of a fitted method for rows, (t, K), float64."""
        logits: np.ndarray = model(self.images[rows].float()).double().numpy()
        return logits

    def span(self, rows: Any) -> "Space":
        """Return the same images in the space that these rows and the classes span, if smaller.

        One more number has what is left of the others. Products with rows and classes stay, and so
        do fits to these rows, which take less time.
        """
        z, h = F.normalize(self.images.double(), dim=-1), self.text.double()
        basis = torch.cat([z[rows], h])
        if len(basis) + 1 >= z.shape[1]:
            return self
        Q = torch.linalg.qr(basis.T).Q  # (D, n + K)
        z, h = z @ Q, F.pad(h @ Q, (0, 1))
        rest = (1 - z.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
        images = torch.cat([z, rest], 1).float()
        return Space(self.name, images, h.float(), self.scale, self.text.shape[1])
