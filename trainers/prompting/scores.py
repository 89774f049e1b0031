"""From features to logits: cosine, hierarchical optimal transport, prompts against patches.

Letters as in the paper: z, h prompt-level features of image and class, r, s their token-level
features, C costs, T transport plans; a hat (here `token`) marks the token level. Everything is
computed in float32 whatever the precision of the encoders.
"""

import math
import os
from functools import cache

import torch
import torch.nn.functional as F

from .encoders.text import TextFeatures
from .encoders.vision import ImageFeatures
from .spec import PromptSpec
from .transport import token_level
from .transport.solver import LEAST_REG, sinkhorn, sinkhorn_released

CPU_CHUNK = 16 << 20  # costs; memory of this size is reused, larger is fetched from the system


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
        d = token_distance(spec, image.r, text.s, text.s_mass, chunk_bytes, text.shared)
        S = S - spec.beta * d
    T = sinkhorn(1 - S.detach(), reg=spec.reg, tol=spec.tol, max_iter=spec.max_iter).plan  # Eq. 7
    return (T * S).sum((-2, -1))


def token_distance(spec, r, s, s_mass, chunk_bytes, shared=0):
    """d_token = <T, C>, C[p, l] = 1 - cos(r[p], s[l]), for every image, class and pair of prompts.

    On a GPU by fused kernels, if Triton is there and does them; else in PyTorch.

    Args:
        r: (B, M, P', D); s: (N, K, L, D); s_mass: (N, K, L).
        shared: how many of the L tokens, the first, are the same for all classes.

    Returns:
        (B, K, M, N).
    """
    problems = r, s, s_mass, spec.reg, spec.tol, spec.max_iter, chunk_bytes
    if r.is_cuda or os.environ.get("TRITON_INTERPRET") == "1":
        try:
            from .transport import triton_kernels as kernels

            obstacle = kernels.obstacle(*problems, reference=plain_token_distances)
        except ImportError as error:
            obstacle = error
        if obstacle is None:
            return kernels.token_distances(*problems)
        say_once(f"Token-level transport runs in PyTorch, without fused kernels: {obstacle}")
    return plain_token_distances(*problems, shared)


say_once = cache(print)


def plain_token_distances(r, s, s_mass, reg, tol, max_iter, chunk_bytes, shared=0):
    """`token_distance` in PyTorch, a chunk of problems at a time."""
    wants_gradient = torch.is_grad_enabled() and (r.requires_grad or s.requires_grad)
    if reg >= LEAST_REG and not wants_gradient:
        groups = classes_by_length(s_mass, shared)
        problems = r.float(), s.float(), s_mass, reg, tol, max_iter, chunk_bytes, shared
        return token_level.distances(*problems, groups)

    def solve(cost, mass):
        return sinkhorn(cost, b=mass, reg=reg, tol=tol, max_iter=max_iter).distance

    return over_chunks(r, s, s_mass, solve, chunk_bytes, shared)


def classes_by_length(s_mass, shared):
    """Numbers of tokens, each with the classes (k,) that have so many: none is padded then.

    Args:
        s_mass: (N, K, L); shared: the least number.
    """
    positions = torch.arange(1, s_mass.shape[2] + 1, device=s_mass.device)
    lengths = ((s_mass > 0) * positions).amax((0, 2)).clamp_min(max(shared, 1))  # (K,)
    lengths, order = lengths.sort(stable=True)
    lengths, counts = (x.tolist() for x in lengths.unique_consecutive(return_counts=True))
    return list(zip(lengths, order.split(counts), strict=True))


def over_chunks(r, s, s_mass, reduce, chunk_bytes, shared=0):
    """Apply `reduce` to the token costs of all pairs, a chunk of images and classes at a time.

    Args:
        r: (B, M, P', D); s: (N, K, L, D); s_mass: (N, K, L).
        reduce: (costs (b, k, M, N, P', l), mass (k, 1, N, l)) -> (b, k, M, N).
        shared: how many of the L tokens, the first, are the same for all classes.

    Returns:
        (B, K, M, N).
    """
    if not r.is_cuda:
        chunk_bytes = min(chunk_bytes, CPU_CHUNK)
    r, s = r.float().contiguous(), s.float()
    common = s[:, 0, :shared]
    groups = classes_by_length(s_mass, shared)
    columns = []
    for length, some in groups:
        own = s.index_select(1, some)[:, :, shared:length]
        mass = s_mass.index_select(1, some)[..., :length].transpose(0, 1)[:, None]
        pair = r.shape[1] * len(s) * r.shape[2] * length * r.element_size()
        columns.append(chunked(r, common, own, mass, reduce, max(1, chunk_bytes // pair)))
    order = torch.cat([some for _, some in groups])
    return torch.cat(columns, 1).index_select(1, order.argsort())


def chunked(r, common, own, mass, reduce, most):
    """Costs and `reduce` for `most` pairs of image and class at a time."""
    images = min(len(r), max(1, math.isqrt(most) // 4))  # which have more tokens than classes
    rows = []
    for rb in r.split(images):
        first = common.flatten(0, 1) @ rb.transpose(-1, -2)  # (b, M, N c, P)
        first = 1 - first.unflatten(2, common.shape[:2])
        chunks = zip(own.split(most // images, 1), mass.split(most // images), strict=True)
        found = [
            reduce(TokenCosts.apply(rb, part, first).transpose(-1, -2), weights)
            for part, weights in chunks
        ]
        rows.append(torch.cat(found, 1))
    return torch.cat(rows)


class TokenCosts(torch.autograd.Function):
    """C[p, l] = 1 - r[p] . s[l] for all pairs, behind the costs that all classes share."""

    @staticmethod
    def forward(ctx, r, s, first):
        """r: (b, M, P, D); s: (N, k, L, D); first: (b, M, N, c, P) -> (b, k, M, N, c + L, P).

        Patches come last: they are read fastest.
        """
        ctx.save_for_backward(r, s)
        (b, M, P, D), (N, k, L, _), c = r.shape, s.shape, first.shape[3]
        cost = r.new_empty(b, k, M, N, c + L, P)
        cost[..., :c, :] = first[:, None]
        cos = (s.reshape(-1, D) @ r.reshape(-1, D).T).view(N, k, L, b, M, P)
        torch.sub(r.new_ones(()), cos.permute(3, 1, 4, 0, 2, 5), out=cost[..., c:, :])
        return cost

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        r, s = ctx.saved_tensors
        grad_r = grad_s = grad_first = None
        first, rest = grad.split((grad.shape[-2] - s.shape[2], s.shape[2]), -2)
        if ctx.needs_input_grad[2]:
            grad_first = first.sum(1)
        D = r.shape[-1]
        shape = s.shape[:3].numel(), r.shape[:3].numel()
        rest = rest.permute(3, 1, 4, 0, 2, 5).reshape(shape)  # as cos was made
        if ctx.needs_input_grad[0]:
            grad_r = (rest.T @ s.reshape(-1, D)).neg_().view(r.shape)
        if ctx.needs_input_grad[1]:
            grad_s = (rest @ r.reshape(-1, D)).neg_().view(s.shape)
        return grad_r, grad_s, grad_first


def released(spec, image, text, chunk_bytes):
    """What the published ALIGN code computes (methods.md, section 3, form `released`)."""
    sim = prompt_similarity(image.z, text.h)
    C = 1 - sim
    if spec.token_level:

        def similarity(cost, mass):  # one stopping decision per image and class
            T = sinkhorn_released(cost, b=mass, reg=spec.reg, group_dims=2).plan
            return (T * (1 - cost)).sum((-2, -1))

        C = C + over_chunks(image.r, text.s, text.s_mass, similarity, chunk_bytes, text.shared)
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
