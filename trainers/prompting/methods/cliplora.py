"""CLIP-LoRA (Zanella and Ben Ayed, CVPRW 2024; arXiv:2405.18541).

Low-Rank Few-Shot Adaptation of Vision-Language Models.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from ..capabilities.updated import Updated
from ..checkpoint.public import Public, PublicFiles
from ..checkpoint.saved import Saved
from ..encoders.added import SIDES, LowRank, blocks_of
from ..encoders.class_text import MEANS
from ..errors import UserError, check_name
from ..method import Method
from ..node import Fraction, From1, Positive
from ..registry import register

# The numbers, from 0, of the adapted blocks of an encoder with L blocks.
POSITIONS: dict[str, Callable[[int], range]] = {
    "all": lambda L: range(L),
    "bottom": lambda L: range(L // 3),
    "mid": lambda L: range(L // 3, 2 * L // 3),
    "up": lambda L: range(2 * L // 3, L),
    "half-bottom": lambda L: range(L // 2),
    "half-up": lambda L: range(L // 2, L),
    "top3": lambda L: range(max(0, L - 3), L),
}
METADATA = ("r", "alpha", "encoder", "params", "position")


@register
class CLIPLoRA(PublicFiles, Updated):
    """Low-rank updates W + ALPHA / sqrt(R) B A of matrices in both encoders; fixed sentences.

    In each chosen block each chosen matrix W0 becomes W0 + c B A, c = ALPHA / sqrt(R), A (R,
    inputs), B (outputs, R). In training the update is a branch with dropout:

        y W0^T + bias + c drop(y) A^T B^T,   L = CE

    A starts uniformly in +-1/sqrt(inputs), B with 0. A dropout mask is drawn for each matrix and
    position; positions that all classes share have one mask for all classes, where the public code
    draws one for each class.

    **Keys** are the public arguments in upper case: ENCODER `both` (`text`, `vision`); POSITION
    `all`, or a part of each encoder: `bottom`, `mid`, `up` (thirds), `half-bottom`, `half-up`,
    `top3`; PARAMS also `o`, and, only here, `fc` and `proj` of the MLP. SCALE 0 is the CLIP's own
    logit scale; the public code multiplies cosines by 100.

    **Published.** 500 steps per shot (`OPTIM.STEPS`), AdamW, rate 2e-4, weight decay 0.01, cosine
    by step to 1e-6, batch 32, short last batches included, amp. There are no settings for
    base-to-new and transfer: the configs use those of 16 shots.

    **Checkpoint.**
    `[visual.]transformer.resblocks.{i}.attn.{q_proj,k_proj,v_proj,proj}.w_lora_{A,B}`. Of the
    public code: `lora_weights.pt`, whose `layer_{i}` counts the chosen text blocks and then those
    of the images.

    **Differences.** With `--dropout_rate 0` the public code removes the update from the weights
    before the backward pass, so that gradients flow back through W0 only. Here they flow through
    W0 + c B A.
    """

    node = "CLIPLORA"
    rules = MEANS
    public = Public(folder="clip_lora")
    public_files = ("lora_weights.pt",)
    training_only = ("DROPOUT_RATE",)

    @dataclass(frozen=True)
    class Settings(Method.Scaled):
        """The arguments of the public code, in upper case, and its constants."""

        ENCODER: Literal["both", "text", "vision"] = "both"
        POSITION: str = "all"
        PARAMS: list[str] = field(default_factory=lambda: ["q", "k", "v"])  # or o, fc, proj
        R: From1 = 2
        ALPHA: Positive = 1.0
        DROPOUT_RATE: Fraction = 0.25

        def __post_init__(self) -> None:
            check_name("POSITION", self.POSITION, POSITIONS)

    settings: Settings

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with the same sentence for every data set."""
        return super().encoders(clip_model, classnames, dataset="")

    def build(self, clip_model, classnames, dataset):
        """Make the updates of each side, block and matrix."""
        encoders = {"text": ("both", "text"), "image": ("both", "vision")}
        self.sides = nn.ModuleDict()
        for side in SIDES:
            tuned = self.settings.ENCODER in encoders[side]
            updates = self._updates(blocks_of(clip_model, side)) if tuned else {}
            self.sides[side] = nn.ModuleDict(updates)

    def _updates(self, blocks: Any) -> dict[str, nn.ModuleDict]:
        settings, W = self.settings, blocks[0].attn.embed_dim
        mlp = blocks[0].mlp  # EVA's inputs to `proj` are half as many as outputs of `fc`
        hidden = {"fc": len(mlp.c_fc.weight), "proj": mlp.c_proj.weight.shape[1]}
        how = settings.R, settings.ALPHA / math.sqrt(settings.R), settings.DROPOUT_RATE
        names = settings.PARAMS
        return {
            str(i): nn.ModuleDict({m: LowRank.of(m, W, *how, hidden.get(m, 0)) for m in names})
            for i in POSITIONS[settings.POSITION](len(blocks))
        }

    def read_public(self, files):
        """Return the updates in a `lora_weights.pt`, after a check of its metadata."""
        layers, metadata = (files["lora_weights.pt"][key] for key in ("weights", "metadata"))
        for key, own in self._metadata().items():
            if metadata.get(key) != own:
                raise UserError(
                    f"The checkpoint was made with {key} {metadata.get(key)}, but TRAINER.CLIPLORA."
                    f"{key.upper()} is {own}: evaluate it with the same"
                )
        public = dict(zip([f"layer_{n}" for n in range(len(layers))], self._layers(), strict=False))
        return Saved(
            state_dict={
                f"{public.get(layer, layer)}.attn.{matrix}.{factor}": value
                for layer, matrices in layers.items()
                for matrix, factors in matrices.items()
                for factor, value in factors.items()
            }
        )

    def write_public(self):
        """Return the content of `lora_weights.pt`."""
        if others := set(self.settings.PARAMS) - set("qkvo"):
            raise UserError(f"lora_weights.pt cannot hold updates of {', '.join(others)}")
        state = self.public_state_dict()
        weights: dict[str, dict] = {}
        for n, layer in enumerate(self._layers()):
            of_layer = weights[f"layer_{n}"] = {}
            for name, value in state.items():
                if name.startswith(f"{layer}.attn."):
                    matrix, factor = name.split(".")[-2:]
                    of_layer.setdefault(matrix, {})[factor] = value
        return {"lora_weights.pt": {"weights": weights, "metadata": self._metadata()}}

    def _layers(self) -> list[str]:
        """Return the public names of the adapted blocks, in the public order: text first."""
        names = {name.partition(".attn.")[0] for name in self.public_parameters()}
        return sorted(names, key=lambda name: ("visual" in name, int(name.rpartition(".")[2])))

    def _metadata(self) -> dict[str, object]:
        values = {key: getattr(self.settings, key.upper()) for key in METADATA}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
