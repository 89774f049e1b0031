"""Weights between CLIP's and those of a training: WiSE-FT (Wortsman et al., CVPR 2022).

Robust fine-tuning of zero-shot models; arXiv:2109.01903.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..encoders.added import SIDES
from ..errors import need
from ..method import Method

# how names of what methods learn begin -> how those of CLIP's weights do, where they differ
PLACES = {
    "image_encoder.": "visual.", "text_encoder.": "", "vit_proj": "visual.proj",
    "linear.": "visual.attnpool.c_proj.",
}  # fmt: skip


def tuned_tensors(
    method: Method, weights: Mapping[str, torch.Tensor]
) -> tuple[dict[str, nn.Parameter], list[Any], list[str]]:
    """Return what a method learns, as tensors of a CLIP with these weights.

    Returns:
        Its own copies of tensors, by their names in the CLIP; its updates of matrices; and the
        names of what no CLIP has.
    """
    own, rest, updates = {}, [], dict[int, Any]()
    for side in SIDES:
        for addition in method.blocks(side).values():
            updates |= {id(update): update for update in addition.weights.values()}
    merged = {id(p) for update in updates.values() for p in getattr(update, "parameters", list)()}
    for name, p in method.public_parameters().items():
        old = next((old for old in PLACES if name.startswith(old)), "")
        place = PLACES.get(old, "") + name.removeprefix(old)
        if place in weights and weights[place].shape == p.shape:
            own[place] = p
        elif id(p) not in merged:
            rest.append(name)
    rest += [name for name, x in method.own_state().items() if x.is_floating_point()]  # GDA's
    return own, [*updates.values()], rest


def start_weights(method: Method, clip_model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors of a CLIP that a method has copies of, by name, as they are now.

    The CLIP is the one that the method was built from, before a run changes its precision.

    Raises:
        UserError: not all that the method learns are weights of this CLIP.
    """
    name, weights = type(method).__name__, clip_model.state_dict()
    own, updates, rest = tuned_tensors(method, weights)
    cannot = f"{name} has no weights between CLIP's and its own (TEST.WISE, --weight), as"
    what = f"{rest[0]}, which no CLIP has" if rest else "nothing"
    need((own or updates) and not rest, f"{cannot} it learns {what}: leave that out")
    return {place: weights[place].clone() for place in own}


@torch.no_grad()
def move_toward_start(method: Method, start: Mapping[str, torch.Tensor], share: float) -> None:
    """Set weights to (1 - a) those of the start and a those learned, a the share.

    An update of a matrix is a times as large.
    """
    own, updates, _ = tuned_tensors(method, start)
    for update in updates:
        update.shrink(share)
    for place, p in own.items():
        p.lerp_(start[place].to(p), 1 - share)


@contextmanager
def toward_start(
    method: Method, start: Mapping[str, torch.Tensor] | None, share: float
) -> Iterator[None]:
    """Evaluate weights as of `move_toward_start` inside of a block; without a start, as they are.

    Examples:
        >>> from trainers.prompting import build_method, load_clip
        >>> clip_model = load_clip("emoji")
        >>> method = build_method("CLIPLoRA", {}, clip_model, ["cat", "dog"])
        >>> with toward_start(method, start_weights(method, clip_model), 0.5):
        ...     logits = method.eval()(torch.zeros(1, 3, 64, 64))
    """
    if start is None:
        yield
        return
    learned = {p: p.detach().clone() for _, p in method.own_parameters()}
    try:
        move_toward_start(method, start, share)
        yield
    finally:
        with torch.no_grad():
            for p, before in learned.items():
                p.copy_(before)
