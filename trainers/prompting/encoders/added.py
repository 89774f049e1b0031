"""Additions to a frozen encoder: updates of weights, tokens and modules in any of its blocks.

Letters: W the width of the encoder, n tokens that enter, R the rank of an update; x is the input of
a block, y = ln_1(x) the output of its first LayerNorm; both have the shape (..., W).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError, need
from .sides import need_open

SIDES = ("text", "image")
MATRICES = ("q", "k", "v", "o", "fc", "proj")  # the frozen ones of a block
MLP = 4  # the usual width inside an MLP, in units of W


class Update(Protocol):
    """A module that updates a frozen matrix; any that has this, such as `LowRank`.

    In training its `forward` is a branch parallel to the matrix; an evaluation in float32 takes
    `merged`. If it updates the bias, too, `forward` contains that, and `merged_bias` returns the
    bias with its update added, (outputs,). For TEST.WISE, `shrink(share)` keeps a share of it.
    """

    training: bool

    def __call__(self, y: torch.Tensor, /) -> torch.Tensor:
        """Return the update of the matrix's output: (..., inputs) -> (..., outputs)."""

    def merged(self, weight: torch.Tensor, /) -> torch.Tensor:
        """Return the matrix (outputs, inputs) with its update added."""


class LowRank(nn.Module):
    """A low-rank update of a frozen matrix, W0 + scale B A (LoRA, arXiv:2106.09685).

    In training it is a branch parallel to the matrix, scale * drop(y) A^T B^T, whose dropout draws
    a mask for every matrix and position. An evaluation in float32 adds scale B A to the matrix.

    Args:
        dropout: rate of the dropout on the branch's input.

    Examples:
        >>> update = LowRank(8, 4, rank=2, scale=0.5)
        >>> bool((update(torch.randn(3, 8)) == 0).all())  # B starts as 0
        True
    """

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, dropout: float = 0.0):
        super().__init__()
        self.scale, self.dropout = scale, dropout
        self.w_lora_A = nn.Parameter(torch.empty(rank, inputs))
        self.w_lora_B = nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.w_lora_A, a=math.sqrt(5))

    @classmethod
    def of(
        cls, name: str, W: int, rank: int, scale: float, dropout: float = 0.0, hidden: int = 0
    ) -> Self:
        """Return an update for a matrix, by its name in `Added.weights`, in a block of width W.

        `hidden` is the width inside its MLP; 0 for 4 W.
        """
        hidden = hidden or MLP * W
        inputs, outputs = hidden if name == "proj" else W, hidden if name == "fc" else W
        return cls(inputs, outputs, rank, scale, dropout)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        """Return the update of the matrix's output: (..., inputs) -> (..., outputs)."""
        if self.training and self.dropout:
            y = F.dropout(y, self.dropout)
        A, B = self.w_lora_A.to(y.dtype), self.w_lora_B.to(y.dtype)
        return self.scale * F.linear(F.linear(y, A), B)

    def merged(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the matrix (outputs, inputs) with its update added."""
        return torch.addmm(weight, self.w_lora_B, self.w_lora_A, alpha=self.scale)

    def shrink(self, share: float) -> None:
        """Keep this share of the update."""
        self.w_lora_B.mul_(share)


class Added(NamedTuple):
    """A method's additions to one block of an encoder; all empty by default.

    Attributes:
        weights: updates of the block's matrices (`Update`), by name: `q`, `k`, `v`, `o` of the
            attention, `fc` and `proj` of the MLP.
        enter: (n, W), tokens that follow the first position, CLS or SOS, from this block on. The
            first block that has some inserts them; in later blocks they replace those of before.
            n is the same everywhere. They get no positional embedding.
        share: of tokens that replace others; the rest of the state stays.
        beside: a module (x, y) -> (..., W) whose output is added to that of the block. It must
            treat each position separately: the last block computes only positions that are read.
        after_attention, after_mlp: modules out -> (..., W) whose output is added to that of the
            attention, after `o`, and of the MLP, before the residual; each position separately.
        before: a module x -> (..., W) whose output is added to x, in block 0 only: in the text
            encoder before positional embeddings are added, in the image encoder after `ln_pre`.
        local: a function of the block's output at the patches, (B, P, W), which is added to the V-V
            path of the image encoder. It alone may mix positions. The method has its module.
        norms: LayerNorms in place of CLIP's, as `tuned_norm` makes them, by name: `ln_1` and `ln_2`
            of the block; `pre` of the image encoder in block 0 (`ln_pre`), and `post` of
            either encoder in its last block (`ln_post`, `ln_final`).

    Examples:
        >>> Added(enter=torch.zeros(3, 128)).beside is None
        True
    """

    weights: Mapping[str, Update] = {}
    enter: torch.Tensor | None = None
    share: float = 1.0
    beside: nn.Module | None = None
    before: nn.Module | None = None
    after_attention: nn.Module | None = None
    after_mlp: nn.Module | None = None
    local: Callable[[torch.Tensor], torch.Tensor] | None = None
    norms: Mapping[str, nn.Module] = {}

    def modules(self) -> dict[str, Any]:
        """Return all that is added but tokens, by name."""
        names = "beside", "before", "after_attention", "after_mlp"
        places = {name: getattr(self, name) for name in names} | {**self.weights, **self.norms}
        return {name: module for name, module in places.items() if module is not None}

    @property
    def is_random(self) -> bool:
        """True if computing it twice may need the same random numbers."""
        modules = self.beside, self.after_attention, self.after_mlp  # they may have dropout
        return any(module is not None and module.training for module in modules) or any(
            update.training and getattr(update, "dropout", True) for update in self.weights.values()
        )


NOTHING = Added()
Additions = Mapping[int, Added]  # by the number of the block, from 0
NONE: Additions = {}


def let_in(addition: Added, x: torch.Tensor, n: int, first: int = 1) -> tuple[torch.Tensor, int]:
    """Insert tokens after the first positions, in place of those that entered before.

    Args:
        addition: with the tokens, (m, W), and their share of a state where others have entered.
        x: states (B, T, W), which contain n tokens that entered before.
        n: their number.
        first: number of positions before them.

    Returns:
        The states (B, T - n + m, W), and the number of tokens that have entered.
    """
    assert addition.enter is not None
    tokens = addition.enter.to(x.dtype).expand(x.shape[0], -1, -1)
    if n and addition.share != 1:
        tokens = addition.share * tokens + (1 - addition.share) * x[:, first : first + n]
    return torch.cat([x[:, :first], tokens, x[:, first + n :]], dim=1), tokens.shape[1]


def linear(
    y: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, updates: Sequence[Update | None]
) -> Sequence[torch.Tensor]:
    """Return the outputs (..., W) of stacked frozen matrices, with their updates.

    `y` is (..., inputs), `weight` (sum of the outputs, inputs) and `bias` (sum of the outputs,); a
    matrix without an update has None.
    """
    count = len(updates)
    given = [update for update in updates if update is not None]
    # only in float32: half precision would round a small update away
    if given and not given[0].training and weight.dtype == torch.float32:
        pairs = zip(weight.chunk(count), updates, strict=True)
        weight = torch.cat([w if update is None else update.merged(w) for w, update in pairs])
        if any(hasattr(update, "merged_bias") for update in given):
            biases = zip(bias.chunk(count), updates, strict=True)
            bias = torch.cat([_bias(b, update) for b, update in biases])
        given = []
    outputs = F.linear(y, weight, bias).chunk(count, -1)
    if not given:
        return outputs
    pairs = zip(outputs, updates, strict=True)
    return [out if update is None else out + update(y).to(out.dtype) for out, update in pairs]


def _bias(bias: torch.Tensor, update: Any) -> torch.Tensor:
    merged: Callable[..., torch.Tensor] | None = getattr(update, "merged_bias", None)
    return bias if merged is None else merged(bias)


def summand(module: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """Return the output of a module of an `Added`, computed in float32."""
    out: torch.Tensor = module(*(x.float() for x in inputs))
    return out.to(inputs[0].dtype)


def tuned_norm(norm: nn.Module) -> nn.Module:
    """Return a copy of a LayerNorm of CLIP that learns, for `Added.norms`; float32 in any case.

    Examples:
        >>> tuned_norm(nn.LayerNorm(4)).weight.requires_grad
        True
    """
    return deepcopy(norm).float().requires_grad_()


def matrices(block: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return the frozen matrices of a block with their biases, by name in `Added.weights`."""
    attn, mlp = block.attn, block.mlp
    stacked = zip(attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3), strict=True)
    layers = {"o": attn.out_proj, "fc": mlp.c_fc, "proj": mlp.c_proj}
    apart = {name: (layer.weight, layer.bias) for name, layer in layers.items()}
    return dict(zip("qkv", stacked, strict=True)) | apart


@torch.no_grad()
def merge(added: Additions, blocks: Sequence[Any]) -> None:
    """Add the updates to the matrices of an encoder's blocks, in place."""
    for i, addition in added.items():
        of_block = matrices(blocks[i])
        for name, update in addition.weights.items():
            weight, bias = of_block[name]
            weight.copy_(update.merged(weight))
            bias.copy_(_bias(bias, update))


def without_updates(added: Additions) -> Additions:
    """Return the additions that remain after `merge` has added the updates to the matrices."""
    return {i: addition._replace(weights={}) for i, addition in added.items()}


def blocks_of(clip_model: Any, side: str) -> Sequence[Any]:
    """Return the blocks of an encoder, `text` or `image`.

    Raises:
        UserError: the encoder is a ResNet.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> [block.attn.embed_dim for block in blocks_of(load_clip("emoji"), "image")]
        [128, 128, 128, 128]
    """
    need_open(clip_model, side, "adds to the blocks of an encoder")
    encoder = clip_model if side == "text" else clip_model.visual
    if not hasattr(encoder, "transformer"):
        raise UserError(
            "The backbone has a ResNet for images but the method adds to the blocks of a "
            "transformer: choose a ViT"
        )
    blocks: Sequence[Any] = encoder.transformer.resblocks
    return blocks


def check_added(name: str, side: str, added: Additions, blocks: Sequence[Any]) -> None:
    """Refuse additions of `Method.blocks` to places that an encoder does not have (UserError)."""
    last = len(blocks) - 1
    for i, addition in added.items():
        norms = ["ln_1", "ln_2", *["pre"] * (i == 0 and side == "image"), *["post"] * (i == last)]
        wrong = [key for key in addition.weights if key not in MATRICES]
        wrong += [key for key in addition.norms if key not in norms]
        wrong += ["before"] if addition.before is not None and i else []
        place = f"block {i} of the {side} encoder"
        need(i in range(last + 1), f"{name} adds to {place}, which has blocks 0 to {last}")
        need(
            not wrong,
            f"{name} adds {', '.join(wrong)} to {place}: name some of {', '.join(MATRICES)}, "
            f"{', '.join(norms)}, and `before` in block 0",
        )
