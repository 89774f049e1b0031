"""The scores: functions from image and text features to similarities, and their registry.

Letters as in the papers: z, h prompt-level features of image and class, r, s their token-level
features, C costs, S similarities, T transport plans, d distances; B images, M visual and N textual
prompts, K classes, D width. All is computed in float32, in whichever precision the encoders run.
Equations without the name of a method are ALIGN's (arXiv:2309.13847).

`register_score` adds a score, from any file that is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.nn.functional as F

from .errors import check_name
from .transport.precision import no_autocast
from .transport.problems import TokenProblems
from .transport.released import sinkhorn_released
from .transport.solver import Sinkhorn
from .transport.token_level import token_distances

if TYPE_CHECKING:
    from .encoders.text import TextFeatures
    from .encoders.vision import ImageFeatures
    from .spec import PromptSpec


Function = TypeVar("Function", bound=Callable[..., torch.Tensor])


class Needs(NamedTuple):
    """The token-level features that a score reads: `patches` is r, `words` is s."""

    patches: bool = False
    words: bool = False


class Score(NamedTuple):
    """A registered score.

    function: as in `register_score`.
    needs: returns the token-level features to compute, which may depend on the method.
    """

    function: Callable[..., torch.Tensor]
    needs: Callable[[PromptSpec], Needs]


SCORES: dict[str, Score] = {}


def register_score(
    name: str, patches: bool = False, words: bool = False
) -> Callable[[Function], Function]:
    """Return a decorator that registers a function as a score, for `PromptSpec(score=name)`.

    The function is called with (spec, image, text, chunk_bytes): the `PromptSpec`; `ImageFeatures`
    with z (B, M, D) and r (B, M, P, D); `TextFeatures` with h (N, K, D) and s (N, K, L, D), all
    normalised; and the most bytes that a large intermediate may take. It returns similarities
    (B, K), float32, which are then multiplied by CLIP's logit scale.

    Args:
        name: of the score.
        patches: True if it reads r; otherwise r is None.
        words: True if it reads s and its weights; otherwise both are None.

    Raises:
        ValueError: the name is taken.

    Examples:
        >>> @register_score("nearest")
        ... def nearest(spec, image, text, chunk_bytes):
        ...     return prompt_similarity(image.z, text.h).amax((2, 3))
        >>> from trainers.prompting import PromptSpec
        >>> needs(PromptSpec(score="nearest", templates=("X X",) * 4))
        Needs(patches=False, words=False)
    """
    return _register(name, lambda spec: Needs(patches, words))


def _register(name: str, needs: Callable[[PromptSpec], Needs]) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        if name in SCORES:
            raise ValueError(f"A score '{name}' already exists: choose another name")
        SCORES[name] = Score(function, needs)
        return function

    return add


def needs(spec: PromptSpec) -> Needs:
    """Return the token-level features that a method's score needs.

    Raises:
        UserError: there is no such score.
    """
    return SCORES[check_name("score", spec.score, SCORES)].needs(spec)


def score(
    spec: PromptSpec,
    image: ImageFeatures,
    text: TextFeatures,
    scale: torch.Tensor,
    chunk_bytes: int,
    head: Callable[..., torch.Tensor] | None = None,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return logits (B, K), float32: the similarity of each image and class, times the scale.

    Args:
        spec: the method.
        image: features of B images.
        text: features of K classes.
        scale: (), CLIP's logit scale 1 / tau.
        chunk_bytes: the most memory for the token-level costs of one chunk.
        head: changes the logits, as `Parts.logits`.
        bias: (), CLIP's, added at the end.
    """
    with no_autocast(image.z.device.type):
        image = image._replace(z=image.z.float())  # r and s are large: converted where read
        text = text._replace(h=text.h.float(), raw=text.raw.float())
        logits = scale.float() * SCORES[spec.score].function(spec, image, text, chunk_bytes)
        if head is not None:
            logits = head(logits, image, text, scale.float())
    return logits if bias is None else logits + bias


def prompt_similarity(z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Return sim(z_j^m, h_k^n), (B, M, D) x (N, K, D) -> (B, K, M, N)."""
    return torch.einsum("bmd,nkd->bkmn", z, h)


def token_problems(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> TokenProblems:
    """Return the token-level transport problems of a batch."""
    assert image.r is not None and text.s is not None and text.s_weights is not None
    how = spec.reg, spec.tol, spec.max_iter, chunk_bytes
    return TokenProblems(image.r, text.s, text.s_weights, *how)


@register_score("cosine")
def cosine(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> torch.Tensor:
    """Return sim(z_j, h_k), (B, K), for one feature a side; h is (1, K, D), or (B, K, D)."""
    z = image.z[:, 0]
    if text.h.shape[0] == 1:
        return z @ text.h[0].T
    return torch.einsum("bd,bkd->bk", z, text.h)  # CoCoOp: text features for each image


def _if_token_level(spec: PromptSpec) -> Needs:
    return Needs(patches=spec.beta > 0, words=spec.beta > 0)


@_register("ot", _if_token_level)
def hierarchical_ot(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> torch.Tensor:
    """Return 1 - d_jk, (B, K): transport between prompts, whose cost has that between tokens.

    With S = 1 - C and a plan T of mass 1, 1 - <T, C> = <T, S>, which has smaller rounding errors.
    """
    S = prompt_similarity(image.z, text.h)  # 1 - C, Eq. 4
    if spec.beta_form == "convex":  # appendix, Eq. 1
        S = spec.beta + (1 - spec.beta) * S
    if spec.token_level:  # Eq. 5, 6, 8
        S = S - spec.beta * token_distances(token_problems(spec, image, text, chunk_bytes))
    solver = Sinkhorn(spec.reg, spec.tol, spec.max_iter, spread=2 + 2 * spec.beta)
    T = solver(1 - S.detach()).plan  # Eq. 7
    return (T * S).sum((-2, -1))


@_register("released", _if_token_level)
def released(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> torch.Tensor:
    """Return what the published ALIGN code computes (docs/methods.md, section 3, `released`)."""
    S = prompt_similarity(image.z, text.h)
    C = 1 - S
    if spec.token_level:

        def similarity(
            C: torch.Tensor, mass: torch.Tensor
        ) -> torch.Tensor:  # the iteration stops for each image and class separately
            T = sinkhorn_released(C, b=mass, reg=spec.reg, group_dims=2).plan
            return (T * (1 - C)).sum((-2, -1))

        C = C + token_problems(spec, image, text, chunk_bytes).solve(similarity)
    # this iteration stops for all images and classes together
    T = sinkhorn_released(C, reg=spec.reg).plan
    return (T * S).sum((-2, -1))


@register_score("plot", patches=True)
def plot(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> torch.Tensor:
    """Return PLOT's similarities (arXiv:2210.01253): transport between patches and N prompts."""
    assert image.r is not None
    S = torch.einsum("bpd,nkd->bknp", image.r[:, 0].float(), text.h).transpose(-1, -2)
    T = sinkhorn_released(1 - S, reg=spec.reg).plan
    local = (T * S).sum((-2, -1))
    if not spec.add_global:
        return local
    return local + image.z[:, 0] @ F.normalize(text.raw.mean(0), dim=-1).T
