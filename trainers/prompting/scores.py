"""From features to logits: cosine, hierarchical optimal transport, prompts against patches.

Letters as in the paper: z, h prompt-level features of image and class, r, s their token-level
features, C costs, T transport plans; a hat (here `token`) marks the token level. Everything is
computed in float32 whatever the precision of the encoders.
"""

import os
from functools import cache

import torch
import torch.nn.functional as F

from .sinkhorn import sinkhorn, sinkhorn_released
from .spec import PromptSpec
from .text import TextFeatures
from .vision import ImageFeatures


def score(spec: PromptSpec, image: ImageFeatures, text: TextFeatures, scale, chunk_bytes: int):
    """Similarity of every image to every class, times CLIP's logit scale.

    Args:
        spec: the method.
        image: z (B, M, D), r (B, M, P', D).
        text: h (N, K, D), s (N, K, L, D) with weights (N, K, L).
        scale: 1/tau, CLIP's logit scale.
        chunk_bytes: the most memory that the token-level costs of one chunk of classes may take.

    Returns:
        Logits (B, K), float32.
    """
    with torch.autocast(image.z.device.type, enabled=False):
        image = image._replace(z=image.z.float())  # the large r and s where they are read
        text = text._replace(h=text.h.float(), raw=text.raw.float())
        return scale.float() * SCORES[spec.score](spec, image, text, chunk_bytes)


def prompt_similarity(z: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """sim(z_j^m, h_k^n), (B, M, D) x (N, K, D) -> (B, K, M, N)."""
    return torch.einsum("bmd,nkd->bkmn", z, h)


def cosine(spec, image, text, chunk_bytes):
    """sim(z_j, h_k) with at most one prompt a side; h may also be one text pass per image."""
    return (image.z[:, 0] @ text.h[0].T) if len(text.h) == 1 else per_image(image.z[:, 0], text.h)


def per_image(z, h):
    """sim(z_j, h_jk) where every image has its own text features (CoCoOp): (B, D) x (B, K, D)."""
    return torch.einsum("bd,bkd->bk", z, h)


def hierarchical_ot(spec, image, text, chunk_bytes):
    """1 - d_jk: transport between prompts, with transport between tokens in its cost (Eq. 4-8).

    With S = 1 - C and a plan T of mass 1, 1 - <T, C> = <T, S>, which rounds less.
    """
    S = prompt_similarity(image.z, text.h)  # Eq. 4
    if spec.beta_form == "convex":  # appendix, Eq. 1
        S = spec.beta + (1 - spec.beta) * S
    if spec.token_level:  # Eq. 6
        S = S - spec.beta * token_distance(spec, image.r, text.s, text.s_mass, chunk_bytes)
    T = sinkhorn(1 - S.detach(), reg=spec.reg, tol=spec.tol, max_iter=spec.max_iter).plan  # Eq. 7
    return (T * S).sum((-2, -1))


def token_distance(spec, r, s, s_mass, chunk_bytes):
    """d_token = <T, C>, C[p, l] = 1 - cos(r[p], s[l]), for every image, class and pair of prompts.

    On a GPU by fused kernels, if Triton is there and does them; else in PyTorch.

    Args:
        r: (B, M, P', D); s: (N, K, L, D); s_mass: (N, K, L).

    Returns:
        (B, K, M, N).
    """
    problems = r, s, s_mass, spec.reg, spec.tol, spec.max_iter, chunk_bytes
    if r.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        try:
            from . import sinkhorn_triton as kernels

            obstacle = kernels.obstacle(*problems, reference=plain_token_distances)
        except ImportError as error:
            obstacle = error
        if obstacle is None:
            return kernels.token_distances(*problems)
        say_once(f"Token-level transport runs in PyTorch, without fused kernels: {obstacle}")
    return plain_token_distances(*problems)


say_once = cache(print)


def plain_token_distances(r, s, s_mass, reg, tol, max_iter, chunk_bytes):
    """`token_distance` in PyTorch, a chunk of problems at a time."""

    def solve(cos, mass):
        return sinkhorn(1 - cos, b=mass, reg=reg, tol=tol, max_iter=max_iter).distance

    return over_chunks(r, s, s_mass, solve, chunk_bytes)


def over_chunks(r, s, s_mass, reduce, chunk_bytes):
    """Apply `reduce` to the token similarities of all pairs, a chunk of images and classes a time.

    Args:
        r: (B, M, P', D); s: (N, K, L, D); s_mass: (N, K, L).
        reduce: (cos (b, k, M, N, P', L), mass (k, 1, N, L)) -> (b, k, M, N).

    Returns:
        (B, K, M, N).
    """
    r, s = r.float(), s.float()
    B, M, P, _ = r.shape
    N, K, L, _ = s.shape
    most = max(1, chunk_bytes // (M * N * P * L * r.element_size()))  # pairs of image and class
    images = min(B, most)
    classes = min(K, max(1, most // images))
    mass = s_mass.transpose(0, 1)[:, None]  # (K, 1, N, L)
    rows = []
    for rb in r.split(images):
        columns = []
        for sk, mk in zip(s.split(classes, 1), mass.split(classes), strict=True):
            cos = (sk.flatten(0, 2) @ rb.flatten(0, 2).T).view(N, -1, L, len(rb), M, P)
            cos = cos.permute(3, 1, 4, 0, 2, 5).contiguous()  # patches last: read fastest
            columns.append(reduce(cos.transpose(-1, -2), mk))
        rows.append(torch.cat(columns, 1))
    return torch.cat(rows)


def released(spec, image, text, chunk_bytes):
    """What the published ALIGN code computes (methods.md, section 3, form `released`)."""
    sim = prompt_similarity(image.z, text.h)
    C = 1 - sim
    if spec.token_level:

        def similarity(cos, mass):  # one stopping decision per image and class
            T = sinkhorn_released(1 - cos, b=mass, reg=spec.reg, group_dims=2).plan
            return (T * cos).sum((-2, -1))

        C = C + over_chunks(image.r, text.s, text.s_mass, similarity, chunk_bytes)
    T = sinkhorn_released(C, reg=spec.reg).plan  # one decision for all images and classes
    return (T * sim).sum((-2, -1))


def plot(spec, image, text, chunk_bytes):
    """PLOT (Chen et al. 2023): transport between the patches of an image and N prompts."""
    cos = torch.einsum("bpd,nkd->bknp", image.r[:, 0].float(), text.h).transpose(-1, -2)
    T = sinkhorn_released(1 - cos, reg=spec.reg).plan
    local = (T * cos).sum((-2, -1))
    if not spec.add_global:
        return local
    return local + image.z[:, 0] @ F.normalize(text.raw.mean(0), dim=-1).T


SCORES = {"cosine": cosine, "ot": hierarchical_ot, "released": released, "plot": plot}
