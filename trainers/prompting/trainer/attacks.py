"""Attacked images in a run: accuracy on them beside that before, and steps that learn from them.

The equations are in `robustness`.
"""

from copy import copy
from typing import Any

import torch
from yacs.config import CfgNode

from ..building.build import make
from ..building.transforms import Images, RandomViews
from ..capabilities.at_test_time import AtTestTime, learns_from_stream, reset
from ..capabilities.on_support import trains_on_support
from ..capabilities.transductive import NOT_ITS_OWN, Transductive
from ..capabilities.unlabelled import Unlabelled
from ..encoders.class_text import ClassText
from ..errors import need
from ..method import Method, find_method
from ..node import read_node
from ..robustness import TRANSFER, attack_step, pgd, to_images, to_pixels
from ..running.seeding import seeded
from .loaders import GeneratedLoader, SeededImages, loader_like

STATIC = "static"  # of a method that adapts: attacked before it does, which is less than can be
WEAK = "no gradient reaches the pixels of {} of the {} images that stay right"


def check_attacks(method: Method, cfg: CfgNode) -> None:
    """Refuse attacks, in a training or a test, that a method cannot have (UserError)."""
    kind, name = type(method), type(method).__name__
    half = method.settings.PREC == "fp16" and cfg.USE_CUDA and torch.cuda.is_available()
    obstacles = {
        "TRAIN": {
            f"{name} trains nothing": not kind.trains,
            f"{name} learns from images without labels": issubclass(kind, Unlabelled),
            f"{name} learns from features": trains_on_support(kind),
        },
        "TEST": {f"the logits of {name} {NOT_ITS_OWN}": isinstance(method, Transductive)},
    }
    for node in (node for node in obstacles if cfg[node].ATTACK):
        for why, holds in obstacles[node].items():
            need(
                not holds,
                f"{node}.ATTACK changes labelled images one by one, but {why}: leave it out",
            )
        need(
            not half,
            f"{node}.ATTACK needs gradients in float32: set {method.place('PREC')} fp32 or amp",
        )


# ------------------------------------------------------------------ in a test


def evaluate_attacked(trainer: Any, split: str | None) -> dict[str, Any]:
    """Return the metrics of a `PromptTrainer` on attacked images, for its record.

    Returns:
        `clean_accuracy` and `robust_accuracy` (%), on the same images, and `attack`: what was done,
        how many right images were `lost`, wrong ones `won`, and why it is `weak`. Empty without
        TEST.ATTACK, and for validation between epochs (a `split` is given).
    """
    test = trainer.cfg.TEST
    if not test.ATTACK or split is not None:
        return {}
    attacked = Attacked(trainer)
    print(f"Attack: {attacked}")
    before, _ = attacked.classify(changed=False)
    after, rests = attacked.classify(changed=True)
    clean, robust = (100 * float(right.float().mean()) for right in (before, after))
    about = {
        "text": str(attacked),
        "eps": test.ATTACK_EPS,
        "images": len(attacked.order),
        "lost": int((before & ~after).sum()),
        "won": int((after & ~before).sum()),
        "weak": WEAK.format(rests, int(after.sum())) if rests else "",
    }
    print(f"Accuracy on these images {clean:.2f}%, attacked {robust:.2f}%")
    if rests:
        print(f"attack too weak: {about['weak']}; {TRANSFER}pgd or cw may find more")
    return {"clean_accuracy": clean, "robust_accuracy": robust, "attack": about}


class Attacked:
    """The images that are attacked in an evaluation, in order.

    Views of an image are drawn from its pixels, as the CLIP reads them, in 8 bits, with the seeds
    of an evaluation without an attack.

    Attributes:
        order: their numbers among the test images.
        form: `static` for a method that adapts while testing.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.method, self.test = trainer, trainer.method, trainer.cfg.TEST
        cfg, manager = trainer.cfg, trainer.dm
        loader = manager.val_loader if self.test.SPLIT == "val" else manager.test_loader
        n, seed = len(loader.dataset), max(cfg.SEED, 0)
        self.form = STATIC if type(self.method).predict is not Method.predict else ""
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
        some = drawn[: self.test.ATTACK_IMAGES or n]
        # a stream is in this order
        self.order = some if learns_from_stream(self.method) else sorted(some)
        self.seeds = SeededImages(loader.dataset, range(n), seed).seeds
        plain = copy(loader.dataset)
        size = loader.batch_size
        self.loader = loader_like(loader, plain, sampler=self.order, batch_size=size)
        self.views = None
        if isinstance(self.method, AtTestTime) and self.method.test_views > 1:
            given = self.method.test_views, self.method.test_augmix
            self.views = RandomViews(plain.transform, Images.in_config(cfg.INPUT), *given)
            self.views.plain = self.views.finish
        self.source = self._source()

    def __str__(self) -> str:
        test, words = self.test, [f"{self.test.ATTACK} {self.test.ATTACK_EPS:g}/255"]
        words += [f"{test.ATTACK_STEPS} steps of {test.ATTACK_ALPHA:g}"]
        words += ["from the image"] * (test.ATTACK_START == "image")
        return ", ".join([*words, f"{len(self.order)} images", *filter(None, [self.form])])

    def _source(self) -> Method:
        """Return the method whose loss is raised: this one, or zero-shot CLIP."""
        if not self.test.ATTACK.startswith(TRANSFER):
            return self.method
        kind, data = find_method("ZeroshotCLIP"), self.trainer.dm.dataset
        place = self.trainer.clip_model, data.classnames, self.trainer.cfg.DATASET.NAME
        return make(kind, read_node(kind, {}, place[2]), *place).to(self.method.device).eval()

    def start(self, pixels: torch.Tensor, index: torch.Tensor) -> torch.Tensor | None:
        """Return where an attack starts, drawn for each image by its number, from the seed."""
        if self.test.ATTACK_START == "image":
            return None
        eps, noise = self.test.ATTACK_EPS / 255, []
        for i in index.tolist():
            generator = torch.Generator().manual_seed(self.seeds[i])
            noise.append(torch.rand(pixels.shape[1:], generator=generator))
        return (pixels + eps * (2 * torch.stack(noise).to(pixels) - 1)).clamp(0, 1)

    def attack(
        self, pixels: torch.Tensor, labels: torch.Tensor, index: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return attacked pixels, and which images (B,) the method's own gradient leaves alone."""
        test, start = self.test, self.start(pixels, index)
        eps, loss = test.ATTACK_EPS / 255, "cw" if test.ATTACK.endswith("cw") else "ce"
        size = eps, test.ATTACK_ALPHA * eps, test.ATTACK_STEPS
        after = pgd(self.source, pixels, labels, *size, start, loss)
        first = pixels if start is None else start
        rests = (after == first).flatten(1).all(1)
        return after, rests & (self.source is self.method)

    def to_input(self, pixels: torch.Tensor, index: torch.Tensor) -> Any:
        """Return what `predict` takes: images, or views of each."""
        if self.views is None:
            return to_images(self.method, pixels)
        from torchvision.transforms.functional import to_pil_image  # slow to import

        rows = []
        for own, i in zip((pixels * 255).round().byte().cpu(), index.tolist(), strict=True):
            with seeded(self.seeds[i]):
                rows.append(self.views(to_pil_image(own)))
        return [torch.stack(view).to(pixels.device) for view in zip(*rows, strict=True)]

    @torch.no_grad()
    def classify(self, changed: bool) -> tuple[torch.Tensor, int]:
        """Return which images are right, (n,), and how many of them rested under the attack."""
        trainer, method, right, rests = self.trainer, self.method, [], []
        reset(method)
        for batch in self.loader:
            (images,), labels = trainer.parse_batch_train(batch)
            pixels, index = to_pixels(method, images), batch["index"]
            rested = torch.zeros_like(labels, dtype=torch.bool)
            if changed:
                pixels, rested = self.attack(pixels, labels, index)
            with trainer.precision.autocast():
                logits = method.predict(self.to_input(pixels, index)).logits
            trainer.watch.see_logits(logits)
            right.append(logits.argmax(1) == labels)
            rests.append(rested & right[-1])
        reset(method)
        trainer.watch.check_logits()
        return torch.cat(right).cpu(), int(torch.cat(rests).sum())


# ------------------------------------------------------------------ in a training


def attacked_steps(trainer: Any, loader: Any) -> Any:
    """Return a loader of training images, or one that attacks them as APT does (TRAIN.ATTACK)."""
    given, method = trainer.cfg.TRAIN, trainer.method
    if not given.ATTACK:
        return loader
    eps = given.ATTACK_EPS / 255
    size = eps, given.ATTACK_ALPHA * eps, given.ATTACK_STEPS
    how = {"text": given.ATTACK_TEXT, "prompt_step": given.ATTACK_TEXT_STEP}
    if given.ATTACK_TEXT == "constant":
        text = ClassText(["a photo of a {}"], trainer.dm.dataset.classnames)
        how["fixed"] = text.features(trainer.clip_model).raw[0].to(trainer.device)

    def attack(batch: dict[str, Any]) -> dict[str, Any]:
        views, labels = trainer.parse_batch_train(batch)
        with trainer.precision.autocast():
            attacked = [
                attack_step(method, to_pixels(method, view), labels, *size, **how) for view in views
            ]
        return batch | {"img": [to_images(method, view) for view in attacked]}

    return GeneratedLoader(lambda: map(attack, loader), len(loader))
