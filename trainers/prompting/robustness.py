"""Attacks: changes of pixels that raise a method's loss (docs/metrics.md, attacks).

PGD (Madry et al., ICLR 2018; arXiv:1706.06083), as torchattacks and the public codes of APT, TTC
and R-TPT do it, on pixels in [0, 1] after resize and crop, in float32.

Letters: B images x, attacked a, of which none is further than eps from x in any pixel; K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F

from .method import Method

Tensor = torch.Tensor

TRANSFER = "transfer-"  # begins attacks on zero-shot CLIP, whose images the method then classifies


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return -sum max(l_y - max_{k != y} l_k, 0): a wrong image rests (Carlini and Wagner)."""
    own = logits.gather(1, labels[:, None])
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)
    return -(own - others).clamp(min=0).sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over images, whose gradient underflows less than that of the mean."""
    return F.cross_entropy(logits, labels, reduction="sum")


LOSSES = {"ce": cross_entropy, "cw": margin}


def to_pixels(method: Method, images: Tensor) -> Tensor:
    """Return normalised images (B, 3, H, W) as pixels in [0, 1]."""
    mean, std = _norm(method, images)
    return (images * std + mean).clamp(0, 1)


def to_images(method: Method, pixels: Tensor) -> Tensor:
    """Return pixels (B, 3, H, W) as the normalised images that a method takes."""
    mean, std = _norm(method, pixels)
    return (pixels - mean) / std


def _norm(method: Method, like: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (like.new_tensor(x)[:, None, None] for x in (method.mean, method.std))
    return mean, std


@contextmanager
def freeze(method: Method) -> Iterator[list[torch.nn.Parameter]]:
    """Put a method into evaluation mode, with gradients to images alone; yield what it learns."""
    training, learned = method.training, [p for p in method.parameters() if p.requires_grad]
    method.eval().requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield learned
    finally:
        method.train(training)
        for p in learned:
            p.requires_grad_()


def gradient(loss: Tensor, a: Tensor) -> Tensor:
    """Return that of a loss; zero if it does not depend on a."""
    if not loss.requires_grad:
        return torch.zeros_like(a)
    (found,) = torch.autograd.grad(loss, a, allow_unused=True, materialize_grads=True)
    return found


def pgd(
    method: Method,
    pixels: Tensor,
    labels: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    start: Tensor | None = None,
    loss: str = "ce",
) -> Tensor:
    """Return pixels that raise the loss of the method before it adapts to them.

        a <- clamp(x + clamp(a + alpha sign(g) - x, -eps, eps), 0, 1)

    g is the gradient of the sum of the loss over the images. What is learned stays as it is.

    Args:
        method: one that takes images.
        pixels: (B, 3, H, W) in [0, 1], before normalisation.
        labels: (B,).
        eps: in units of the pixels, as alpha.
        alpha: the size of a step.
        start: the first a; None takes the images themselves.
        loss: `ce`, or `cw` for the margin between the logits.

    Examples:
        >>> from trainers.prompting import build_method, load_clip
        >>> method = build_method("ZeroshotCLIP", {}, load_clip("emoji"), ["cat", "dog"])
        >>> x, labels = torch.full((1, 3, 64, 64), 0.5), torch.tensor([0])
        >>> attacked = pgd(method, x, labels, eps=4 / 255, alpha=1 / 255, steps=4)
        >>> round(float((attacked - x).abs().max() * 255), 3)
        4.0
    """
    with freeze(method):
        x = pixels.clone()
        a = x if start is None else start.clone()
        for _ in range(steps):
            a.requires_grad_()
            g = gradient(LOSSES[loss](method(to_images(method, a)), labels), a)
            moved = (a.detach() + alpha * g.sign() - x).clamp(-eps, eps)
            a = (x + moved).clamp(0, 1)
    return a.detach()


def attack_step(
    method: Method,
    pixels: Tensor,
    labels: Tensor,
    eps: float,
    alpha: float,
    steps: int,
    text: str = "onfly",
    start: Tensor | None = None,
    prompt_step: float = 0.0,
    fixed: Tensor | None = None,
) -> Tensor:
    """Return the attacked pixels that a training step learns from, as APT (arXiv:2403.01849) does.

        delta <- clamp(delta + alpha sign(g), -eps, eps)

    g is the gradient of the cross-entropy at a = clamp(x + delta, 0, 1); delta itself is not cut.

    Args:
        method: one that takes images, as for `pgd`, whose arguments these are up to `steps`.
        pixels: (B, 3, H, W).
        labels: (B,).
        eps: the most that a pixel changes.
        alpha: the size of a step.
        text: `onfly`: the attack reads what is learned as it is; `constant`: features of classes
            that are `fixed`; `perturbed`: what is learned ascends the mean loss in each step, too,
            and is put back.
        start: the first delta; None draws it, uniformly in -eps to eps.
        prompt_step: times the gradient of what is learned, if it is perturbed.
        fixed: (K, D), features of sentences about the classes.
    """
    moving = text == "perturbed"
    with freeze(method) as learned:
        delta = torch.empty_like(pixels).uniform_(-eps, eps) if start is None else start.clone()
        before = [p.detach().clone() for p in learned if moving]
        for p in learned if moving else ():
            p.requires_grad_()
        for _ in range(steps):
            a = (pixels + delta).clamp(0, 1).requires_grad_()
            images = to_images(method, a)
            if text == "constant":
                assert fixed is not None, "constant text needs features"
                z = method.image_features(images, method.contexts()).z.mean(1)
                logits = method.logit_scale * z @ F.normalize(fixed, dim=-1).T
            else:
                logits = method(images)
            wanted = [a, *(learned if moving else ())]
            g, *upward = torch.autograd.grad(
                cross_entropy(logits, labels), wanted, allow_unused=True, materialize_grads=True
            )
            delta = (delta + alpha * g.sign()).clamp(-eps, eps)
            for p, ascent in zip(learned, upward, strict=False):
                p.data = p.data + prompt_step / len(labels) * ascent
        for p, value in zip(learned, before, strict=False):
            p.data = value
    return (pixels + delta).clamp(0, 1).detach()
