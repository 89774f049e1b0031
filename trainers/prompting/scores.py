"""From features to similarities: the equations of the methods, and nothing else.

Letters as in the papers: z, h prompt-level features of image and class, r, s their token-level
features, C costs, S similarities, T transport plans, d distances; B images, M visual and N textual
prompts, K classes, D width. Everything is computed in float32 whatever the encoders' precision.
Equations without a name are ALIGN's (arXiv:2309.13847).

A score is a function of features; `register_score` adds one, from any file that is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.nn.functional as F

from .errors import check_name
from .transport.plans import pooled_token_distances, prompt_plan, scaled_plan
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
Total = Callable[[torch.Tensor], torch.Tensor]  # of the parts of a batch on all ranks


class Needs(NamedTuple):
    """Which token-level features a score reads: r of the image, s of the text."""

    patches: bool = False
    words: bool = False


class Score(NamedTuple):
    """A function of features, and what it needs, which may depend on the method.

    by_images: an image's similarities do not depend on those of the batch on other ranks, so that
    ranks may share the images; or the function takes `total`, by which it asks for them.
    """

    function: Callable[..., torch.Tensor]
    needs: Callable[[PromptSpec], Needs]
    by_images: bool
    takes_total: bool = False


SCORES: dict[str, Score] = {}


def register_score(
    name: str, patches: bool = False, words: bool = False, by_images: bool = False
) -> Callable[[Function], Function]:
    """Decorator: make a function the score of that name, for `PromptSpec(score=name)`.

    The function is called with (spec, image, text, chunk_bytes): the method; z (B, M, D) and r
    (B, M, P, D) of `ImageFeatures`; h (N, K, D) and s (N, K, L, D) of `TextFeatures`, normalised;
    and the most memory that a large intermediate may take. It returns similarities (B, K), float32,
    of which CLIP's logit scale makes logits.

    Args:
        name: of the score.
        patches: whether it reads r, which is None else.
        words: whether it reads s and its weights, which are None else.
        by_images: whether an image's similarities are the same whatever other images there are; a
            run on several ranks then computes them in shares.

    Raises:
        ValueError: there is a score of that name.

    Examples:
        >>> @register_score("nearest", by_images=True)
        ... def nearest(spec, image, text, chunk_bytes):
        ...     return prompt_similarity(image.z, text.h).amax((2, 3))
        >>> from trainers.prompting import PromptSpec
        >>> needs(PromptSpec(score="nearest", templates=("X X",) * 4))
        Needs(patches=False, words=False)
    """
    return _register(name, lambda spec: Needs(patches, words), by_images)


def _register(
    name: str,
    needs: Callable[[PromptSpec], Needs],
    by_images: bool = True,
    takes_total: bool = False,
) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        if name in SCORES:
            raise ValueError(f"There is a score '{name}' already: choose another name")
        SCORES[name] = Score(function, needs, by_images, takes_total)
        return function

    return add


def needs(spec: PromptSpec) -> Needs:
    """What the encoders have to compute for a method's score.

    Raises:
        UserError: there is no such score.
    """
    return SCORES[check_name("score", spec.score, SCORES)].needs(spec)


def by_images(spec: PromptSpec) -> bool:
    """Whether ranks may share the images of a method's score."""
    return SCORES[spec.score].by_images


def score(
    spec: PromptSpec,
    image: ImageFeatures,
    text: TextFeatures,
    scale: torch.Tensor,
    chunk_bytes: int,
    total: Total = lambda part: part,
) -> torch.Tensor:
    """Logits (B, K), float32: similarity of every image to every class, times the logit scale.

    The scale is 1 / tau, CLIP's; token-level costs of one chunk take `chunk_bytes` at most; `total`
    adds up a number over the parts of the batch that are elsewhere.
    """
    chosen = SCORES[spec.score]
    more = {"total": total} if chosen.takes_total else {}
    with no_autocast(image.z.device.type):
        image = image._replace(z=image.z.float())  # the large r and s where they are read
        text = text._replace(h=text.h.float(), raw=text.raw.float())
        return scale.float() * chosen.function(spec, image, text, chunk_bytes, **more)


def finish(
    head: Callable[..., torch.Tensor],
    logits: torch.Tensor,
    image: ImageFeatures,
    text: TextFeatures,
    scale: torch.Tensor,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Logits (B, K), float32, of those of the score: by way of a head, and with CLIP's bias."""
    with no_autocast(image.z.device.type):
        image = image._replace(z=image.z.float())
        text = text._replace(h=text.h.float(), raw=text.raw.float())
        logits = head(logits, image, text, scale.float())
    return logits if bias is None else logits + bias


def prompt_similarity(z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """sim(z_j^m, h_k^n), (B, M, D) x (N, K, D) -> (B, K, M, N)."""
    return torch.einsum("bmd,nkd->bkmn", z, h)


def token_problems(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> TokenProblems:
    """The token problems of a batch."""
    assert image.r is not None and text.s is not None and text.s_weights is not None
    how = spec.reg, spec.tol, spec.max_iter, chunk_bytes, spec.rho
    return TokenProblems(image.r, text.s, text.s_weights, *how)


@register_score("cosine", by_images=True)
def cosine(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> torch.Tensor:
    """sim(z_j, h_k) with at most one prompt a side; h may also be one text pass per image."""
    z = image.z[:, 0]
    if text.h.shape[0] == 1:
        return z @ text.h[0].T
    return torch.einsum("bd,bkd->bk", z, text.h)  # CoCoOp: every image has its own text features


def _if_token_level(spec: PromptSpec) -> Needs:
    return Needs(patches=spec.beta > 0, words=spec.beta > 0)


@_register("ot", _if_token_level)
def hierarchical_ot(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> torch.Tensor:
    """1 - d_jk: transport between prompts, with transport between tokens in its cost.

    With S = 1 - C and a plan T of mass 1, 1 - <T, C> = <T, S>, which rounds less.
    """
    d = token_distance(spec, image, text, chunk_bytes) if spec.token_level else None
    S = similarity(spec, prompt_similarity(image.z, text.h), d)
    if spec.plan in ("uniform", "nearest"):
        T = prompt_plan(S, spec.plan)
    elif spec.plan == "scaled":
        T = scaled_plan(1 - S, None, Sinkhorn(spec.reg, spec.tol, spec.max_iter))
    else:
        solver = Sinkhorn(spec.reg, spec.tol, spec.max_iter, spread=2 + 2 * spec.beta)
        T = solver(1 - S.detach()).plan  # Eq. 7
    return (T * S).sum((-2, -1))


def similarity(spec: PromptSpec, S: torch.Tensor, d: torch.Tensor | None) -> torch.Tensor:
    """1 - C between prompts, of their cosines S (Eq. 4) and their token-level distances d."""
    if spec.beta_form == "convex":  # appendix, Eq. 1
        S = spec.beta + (1 - spec.beta) * S
    return S if d is None else S - spec.beta * d  # Eq. 6


def token_distance(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int
) -> torch.Tensor:
    """d_token = <T, C>, C[p, l] = 1 - cos(r[p], s[l]), (B, K, M, N) (Eq. 5, 8)."""
    problems = token_problems(spec, image, text, chunk_bytes)
    if spec.plan == "pooled":
        return pooled_token_distances(problems, text.h)
    return token_distances(problems, spec.plan)


@_register("released", _if_token_level, takes_total=True)
def released(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int, total: Total
) -> torch.Tensor:
    """What the published ALIGN code computes (docs/methods.md, section 3, form `released`)."""
    S = prompt_similarity(image.z, text.h)
    C = 1 - S
    if spec.token_level:

        def similarity(
            C: torch.Tensor, mass: torch.Tensor
        ) -> torch.Tensor:  # one stopping decision per image and class
            T = sinkhorn_released(C, b=mass, reg=spec.reg, group_dims=2).plan
            return (T * (1 - C)).sum((-2, -1))

        C = C + token_problems(spec, image, text, chunk_bytes).solve(similarity)
    # one decision for all images, of all ranks, and classes
    T = sinkhorn_released(C, reg=spec.reg, total=total).plan
    return (T * S).sum((-2, -1))


@_register("plot", lambda spec: Needs(patches=True), takes_total=True)
def plot(
    spec: PromptSpec, image: ImageFeatures, text: TextFeatures, chunk_bytes: int, total: Total
) -> torch.Tensor:
    """PLOT (arXiv:2210.01253): transport between the patches of an image and N prompts."""
    assert image.r is not None
    S = torch.einsum("bpd,nkd->bknp", image.r[:, 0].float(), text.h).transpose(-1, -2)
    T = sinkhorn_released(1 - S, reg=spec.reg, total=total).plan
    local = (T * S).sum((-2, -1))
    if not spec.add_global:
        return local
    return local + image.z[:, 0] @ F.normalize(text.raw.mean(0), dim=-1).T
