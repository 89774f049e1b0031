"""CLIP-LoRA (Zanella and Ben Ayed, CVPRW 2024; arXiv:2405.18541).

Low-Rank Few-Shot Adaptation of Vision-Language Models.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from ..encoders.added import MATRICES, SIDES, Added, LowRank, blocks_of
from ..errors import UserError, check_name
from ..method import Method, register
from ..model.parts import Parts
from ..spec import PromptSpec

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
PUBLIC = {
    "q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.proj", "fc": "mlp.c_fc",
    "proj": "mlp.c_proj",
}  # fmt: skip
METADATA = ("r", "alpha", "encoder", "params", "position")


def _group(content: object, key: str) -> dict:
    """Return `content[key]`, which must be a dict."""
    found = content.get(key) if isinstance(content, dict) else None
    if not isinstance(found, dict):
        raise UserError(f"The checkpoint has no '{key}' as CLIP-LoRA's public code writes it")
    return found


class Updates(Parts):
    """The low-rank updates of both encoders, by side, block and matrix."""

    def __init__(self, updates: dict[str, dict[int, dict[str, LowRank]]]):
        super().__init__()
        self.sides = nn.ModuleDict()
        for side, blocks in updates.items():
            of_blocks = {str(i): nn.ModuleDict(of) for i, of in blocks.items()}
            self.sides[side] = nn.ModuleDict(of_blocks)
        self._added = {
            side: {i: Added(of) for i, of in blocks.items()} for side, blocks in updates.items()
        }

    def public_name(self, name):
        """Return a name such as `visual.transformer.resblocks.0.attn.q_proj.w_lora_A`."""
        _, side, i, matrix, factor = name.split(".")
        tower = "visual." if side == "image" else ""
        return f"{tower}transformer.resblocks.{i}.{PUBLIC[matrix]}.{factor}"

    def blocks(self, side):
        """Return the updates of a side's blocks."""
        return self._added[side]


@register
class CLIPLoRA(Method):
    """Low-rank updates W + ALPHA / sqrt(R) B A of matrices in both encoders; fixed sentences.

    L = CE (docs/adaptation.md). The public code draws a dropout mask for every position of every
    sentence; here a position that all classes share has one mask for all classes.
    """

    node = "CLIPLORA"
    checkpoint = "clip_lora"
    public_files = ("lora_weights.pt",)
    training_only = ("DROPOUT_RATE",)

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The arguments of the public code, in upper case, and its constants."""

        ENCODER: str = "both"  # or text, vision
        POSITION: str = "all"
        PARAMS: list[str] = field(
            default_factory=lambda: ["q", "k", "v"]
        )  # of q, k, v, o, fc, proj
        R: int = 2
        ALPHA: float = 1.0
        DROPOUT_RATE: float = 0.25
        SCALE: float = 0.0  # of the logits; 0 takes the CLIP's own; the public code has 100

    settings: Settings

    @staticmethod
    def point(settings: Settings) -> PromptSpec:
        """Return the spec for these settings."""
        check_name("ENCODER", settings.ENCODER, ("both", "text", "vision"))
        check_name("POSITION", settings.POSITION, POSITIONS)
        for name in settings.PARAMS:
            check_name("matrix in PARAMS", name, MATRICES)
        if not 0 <= settings.DROPOUT_RATE < 1:
            raise UserError(f"DROPOUT_RATE is {settings.DROPOUT_RATE} but must be in [0, 1)")
        return PromptSpec(M=0, N=0, beta=0, score="cosine", sentence="a photo of a {}.")

    def setup(self, clip_model, classnames, dataset):
        """Make the updates."""
        settings = self.settings
        self.model.set_scale(settings.SCALE)
        wanted = {"text": ("both", "text"), "image": ("both", "vision")}
        self.model.parts = Updates(
            {
                side: self._updates(blocks_of(clip_model, side))
                if settings.ENCODER in wanted[side]
                else {}
                for side in SIDES
            }
        )

    def read_public(self, files):
        """Return the updates in a `lora_weights.pt`, after a check of its metadata."""
        content = files["lora_weights.pt"]
        layers, metadata = (_group(content, key) for key in ("weights", "metadata"))
        for key, own in self._metadata().items():
            if metadata.get(key) != own:
                raise UserError(
                    f"The checkpoint was made with {key} {metadata.get(key)}, but TRAINER.CLIPLORA."
                    f"{key.upper()} is {own}: evaluate it with the same"
                )
        public = dict(zip([f"layer_{n}" for n in range(len(layers))], self._layers(), strict=False))
        return {
            "state_dict": {
                f"{public.get(layer, layer)}.attn.{matrix}.{factor}": value
                for layer in layers
                for matrix in _group(layers, layer)
                for factor, value in _group(layers[layer], matrix).items()
            }
        }

    def write_public(self):
        """Return the content of `lora_weights.pt`."""
        if others := set(self.settings.PARAMS) - set("qkvo"):
            raise UserError(f"lora_weights.pt cannot hold updates of {', '.join(others)}")
        state = self.model.public_state_dict()
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
        names = {name.partition(".attn.")[0] for name in self.model.public_parameters()}
        return sorted(names, key=lambda name: ("visual" in name, int(name.rpartition(".")[2])))

    def _metadata(self) -> dict[str, object]:
        values = {key: getattr(self.settings, key.upper()) for key in METADATA}
        return {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}

    def _updates(self, blocks):
        settings, found = self.settings, {}
        W = blocks[0].attn.embed_dim
        if not 1 <= settings.R <= W:
            raise UserError(
                f"TRAINER.CLIPLORA.R is {settings.R} but must be from 1 to {W}, the width of the "
                "encoder"
            )
        how = settings.R, settings.ALPHA / math.sqrt(settings.R), settings.DROPOUT_RATE
        for i in POSITIONS[settings.POSITION](len(blocks)):
            found[i] = {name: LowRank.of(name, W, *how) for name in settings.PARAMS}
        return found
