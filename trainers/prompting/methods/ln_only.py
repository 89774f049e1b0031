"""LayerNorms only (Farina et al., CVPR 2025; arXiv:2503.11609, the first stage).

Rethinking Few-Shot Adaptation of Vision-Language Models in Two Stages.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from ..checkpoint.public import Public
from ..encoders.added import SIDES, Added, blocks_of, tuned_norm
from ..encoders.class_text import MEANS
from ..method import Method
from ..node import From0
from ..registry import register

MODALITIES = {"both": SIDES, "vision": ("image",), "text": ("text",)}
ENDS = {"image": ("visual.ln_pre", "visual.ln_post"), "text": ("", "ln_final")}


@register
class LNOnly(Method):
    """The LayerNorms of the blocks of both encoders; the same sentence for all data sets. L = CE.

    LN_MODALITY chooses the encoders, LN_VISION_START and LN_TEXT_START the first block. The public
    code lists `ln_pre`, `ln_post` and `ln_final` among what is trained but freezes them again;
    LN_ENDS trains them, as the paper names no such exception (`ln_pre` only if LN_VISION_START is
    0). Weight decay pulls weights and biases towards 0, not to their start.
    """

    node = "LN_ONLY"
    rules = MEANS
    # OPTIM has what is ignored
    public = Public(folder="layer_norms", ignored=("N_ITERS", "LR", "WD", "PEFT"))

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The arguments of the public code, in upper case, and LN_ENDS."""

        LN_MODALITY: Literal["both", "vision", "text"] = "both"
        LN_VISION_START: From0 = 0  # the first block
        LN_TEXT_START: From0 = 0
        LN_ENDS: bool = False

    settings: Settings
    norms: Any

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, with the same sentence for every data set."""
        return super().encoders(clip_model, classnames, dataset="")

    def build(self, clip_model, classnames, dataset):
        """Make copies of the LayerNorms that learn, by side, block and name."""
        s, self.norms = self.settings, nn.ModuleDict()
        for side in MODALITIES[s.LN_MODALITY]:
            blocks, text = blocks_of(clip_model, side), side == "text"
            start, last = s.LN_TEXT_START if text else s.LN_VISION_START, len(blocks) - 1
            norms: Any = nn.ModuleDict()
            self.norms[side] = norms
            for i in range(start, last + 1):
                pair = {name: tuned_norm(getattr(blocks[i], name)) for name in ("ln_1", "ln_2")}
                norms[str(i)] = nn.ModuleDict(pair)
            if s.LN_ENDS:
                post = clip_model.ln_final if text else clip_model.visual.ln_post
                if isinstance(post, nn.LayerNorm):  # BERT ends with the last block's ln_2
                    norms[str(last)]["post"] = tuned_norm(post)
            pre = None if text else clip_model.visual.ln_pre  # the identity in SigLIP and CLIPA
            if s.LN_ENDS and start == 0 and isinstance(pre, nn.LayerNorm):
                norms["0"]["pre"] = tuned_norm(pre)

    def blocks(self, side):
        """Return the LayerNorms of a side's blocks."""
        if side not in self.norms:
            return {}
        return {int(i): Added(norms=dict(norms.items())) for i, norms in self.norms[side].items()}

    def public_name(self, name):
        """Return a name such as `visual.transformer.resblocks.0.ln_1.weight`."""
        kind, _, rest = name.partition(".")
        if kind != "norms":
            return name
        side, i, norm, leaf = rest.split(".")
        if norm in ("pre", "post"):
            return f"{ENDS[side][norm == 'post']}.{leaf}"
        prefix = "visual." if side == "image" else ""
        return f"{prefix}transformer.resblocks.{i}.{norm}.{leaf}"
