"""Checks during a run: numbers stay finite, and the method trains something.

Reading a value from an accelerator makes the host wait. So the checks record their findings on the
device, and the host reads them every few steps.
"""

from collections.abc import Mapping
from typing import Any

import torch
from yacs.config import CfgNode

from ..building.keys import check_keys
from ..capabilities.unlabelled import Unlabelled
from ..checkpoint.files import saved_epochs
from ..checkpoint.provenance import check_teachers
from ..checkpoint.several import check_labels
from ..contract import check_registered
from ..encoders.indistinct import find_indistinct
from ..encoders.uncalled import check_uncalled
from ..errors import UserError, need
from ..method import Method
from ..storage.values import is_sound
from ..teacher import MethodTeacher
from .attacks import check_attacks
from .feature_rows import check_views
from .planned_steps import check_planned
from .schedule import NONE
from .streams import check_stream

MOST = 4  # groups, and classes of one, in a note
EVERY = 20  # steps between two reads of the loss on an accelerator


class Watch:
    """Detects losses and logits that are not finite."""

    def __init__(self, device: torch.device, folder: str):
        self.folder = folder
        self.waits = device.type != "cpu"
        self.first_bad = torch.tensor(-1, device=device)
        self.sound = torch.tensor(True, device=device)

    def check_loss(self, loss: torch.Tensor, epoch: int, step: int, steps: int) -> None:
        """Check the losses, scalars, of an epoch so far; on an accelerator, not in each step.

        Epochs and steps are counted from 0; the epoch has `steps` of them.
        """
        is_first = ~torch.isfinite(loss.detach()) & (self.first_bad < 0)
        self.first_bad = torch.where(is_first, step, self.first_bad)
        if self.waits and step + 1 < steps and step % EVERY:
            return
        if (first := int(self.first_bad)) >= 0:
            raise self._error(f"The loss is not finite in epoch {epoch + 1}, step {first + 1}")

    def see_logits(self, logits: torch.Tensor) -> None:
        """Record whether the softmax of logits (B, K) is finite; on the CPU check at once."""
        self.sound &= logits.logsumexp(dim=1).isfinite().all()
        if not self.waits:
            self.check_logits()

    def check_logits(self) -> None:
        """Raise UserError if the softmax of logits seen since the last check is not finite."""
        sound = bool(self.sound)
        self.sound.fill_(True)
        if not sound:
            raise UserError(
                "The logits are not finite: the training has failed, so lower OPTIM.LR, or "
                "evaluate an earlier epoch with --eval-only, --model-dir and --load-epoch",
                exit_code=1,
            )

    def check_learned(self, method: Method, epoch: int) -> None:
        """Raise UserError if a parameter or buffer is not finite; it waits for the device once."""
        sound = {name: p.isfinite().all() for name, p in method.public_parameters().items()}
        for name, value in method.own_state().items():
            sound[name] = is_sound(value).to(method.device)
        if sound and not torch.stack([*sound.values()]).all():
            first = next(name for name, ok in sound.items() if not ok)
            raise self._error(f"'{first}' is not finite after epoch {epoch}")

    def _error(self, what: str) -> UserError:
        """Return the error about a value that is not finite; it names the last checkpoint."""
        kept = "there is none yet"
        if epochs := saved_epochs(self.folder):
            kept = f"that of epoch {epochs[-1]} is kept in '{self.folder}'"
        return UserError(
            f"{what}: lower OPTIM.LR or set PREC fp32 (no checkpoint is written, {kept})",
            exit_code=1,
        )


def check_cfg(cfg: CfgNode, kind: type[Method]) -> None:
    """Refuse, before data are loaded, what no run of a method can be."""
    check_keys(cfg)
    need(
        cfg.MODEL.BACKBONE.PRETRAINED,
        "MODEL.BACKBONE.PRETRAINED is False, but methods adapt a trained CLIP: leave it out",
    )
    check_planned(kind, cfg.OPTIM)


def check_method(method: Method, dataset: Any, cfg: CfgNode) -> None:
    """Refuse a method that does not fit its run."""
    check_teachers(method, dataset, cfg)
    check_stream(method, dataset, cfg)
    check_attacks(method, cfg)
    if method.settings.sentences is not None:
        print(f"Sentences: {method.settings.sentences.note}")
    if file := cfg.DATASET.get("FEATURES", ""):
        check_views(method, file)
    kind = type(method)
    check_known(method, dataset)
    if kind.trains and not (method.learned() or updates_buffers(kind)):
        raise UserError(
            f"{kind.__name__} trains nothing: give it prompts (M or N above 0) or other parameters,"
            " update its buffers in `backward`, or set `trains = False` in its class"
        )


def check_known(method: Method, dataset: Any) -> None:
    """Refuse unknown labels for a method that needs all of several (UserError)."""
    name, unknown = type(method).__name__, 0
    if method.settings.several and method.needs_all_labels:
        unknown = sum(-1 in item.label for item in dataset.train_x)
    need(
        not unknown,
        f"{name} needs all labels of training images, but of {unknown:,} images some are unknown: "
        "train with all of them (DATASET.KNOWN 1.0), or choose another method",
    )


def updates_buffers(kind: type[Method]) -> bool:
    """Return True if a method may train without parameters."""
    return kind.trains and kind.backward is not Method.backward


def check_first_step(method: Method, terms: Mapping[str, torch.Tensor]) -> None:
    """Name what the first step does not train, and the terms of its loss that do nothing."""
    name = type(method).__name__
    check_uncalled(name, method.uncalled)
    check_registered(method)
    learning = {place: p.grad for place, p in method.learned().items() if p.requires_grad}
    idle = [place for place, gradient in learning.items() if gradient is None]
    if len(idle) == len(learning) and method.learned():
        raise UserError(
            f"`backward` of {name} leaves no gradient in what is learned: call "
            "`backward` of a loss that depends on it, or set `.grad`"
        )
    if idle:
        print(f"No gradient reaches {_some(idle)}: what is minimised does not depend on them")
    parts = {key: term for key, term in terms.items() if key != "loss"}
    if parts and torch.equal(torch.stack([*parts.values()]).sum(), terms["loss"]):
        constant = [key for key, term in parts.items() if not term.requires_grad]
        if constant:
            print(
                f"No gradient comes from {_some(constant)} of the loss of {name}: nothing learns it"
            )


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + f" and {len(names) - 4} more" * (len(names) > 4)


def check_optimised(
    method: Method, optimizer: torch.optim.Optimizer, learned: Mapping[str, torch.Tensor]
) -> None:
    """Refuse parameters that were made or replaced after the optimiser (UserError).

    `learned` is what the present stage of the optimiser trains, by name.
    """
    optimised = {
        id(p) for group in optimizer.param_groups for p in group["params"] if p is not NONE
    }
    new = [place for place, p in learned.items() if id(p) not in optimised]
    lost = len(optimised) - (len(learned) - len(new))
    need(
        not (new or lost),
        f"{type(method).__name__} has made, replaced or removed parameters after `build`"
        f"{f' ({_some(new)})' if new else ''}, which its optimiser does not follow: make them in "
        "`build`, and change their values in place (`with torch.no_grad(): p.copy_(x)`)",
    )


def check_data(kind: type[Method], cfg: CfgNode, manager: Any) -> None:
    """Refuse a data set (`DataManager`) that a method cannot learn (UserError)."""
    name, K = kind.__name__, len(manager.dataset.classnames)
    need(K > 1, f"The data set has {K} class: at least 2 are needed")
    check_labels(cfg, getattr(manager.dataset, "several", False))
    if not issubclass(kind, Unlabelled):
        return
    need(
        manager.train_loader_u is not None,
        f"{name} learns from unlabelled images, but {cfg.DATASET.NAME} has none (`train_u`): "
        "choose a data set with training images",
    )
    need(
        cfg.DATALOADER.TRAIN_U.SAME_AS_X,
        f"{name} trains on unlabelled images with DATALOADER.TRAIN_X: leave "
        "DATALOADER.TRAIN_U.SAME_AS_X True",
    )


def note_indistinct(method: Method, classnames: list[str], backbone: str) -> None:
    """Print which classes of other names are the same to a CLIP, such as names it has no words for.

    A method whose text is that of a teacher has the classes of this one.
    """
    teachers = [m.method for m in method.children() if isinstance(m, MethodTeacher) and m.method]
    found = find_indistinct((teachers or [method])[0].text_encoder)
    K = len(classnames)
    named = [list(dict.fromkeys(classnames[k] for k in group if k < K)) for group in found]
    if odd := [" = ".join(names[:MOST]) for names in named if len(names) > 1]:
        some = "; ".join(odd[:MOST]) + ", ..." * (len(odd) > MOST)
        print(f"Note: {backbone} cannot tell these classes by their names: {some}")
