"""The base of methods that update matrices inside the blocks of both encoders."""

from typing import Any

import torch

from ..encoders.added import Added, matrices
from ..method import Method

PUBLIC = {
    "q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.proj", "fc": "mlp.c_fc",
    "proj": "mlp.c_proj",
}  # fmt: skip


class Updated(Method):
    """A method whose `build` makes an `Update` of each matrix that it learns.

    Attributes:
        sides: a ModuleDict by side, number of the block and name of the matrix.
    """

    sides: Any

    def blocks(self, side):
        """Return the updates of a side's blocks."""
        return {
            int(i): Added(weights=dict(updates.items())) for i, updates in self.sides[side].items()
        }

    def public_name(self, name):
        """Return a name such as `visual.transformer.resblocks.0.attn.q_proj.w_lora_A`."""
        _, side, i, matrix, leaf = name.split(".")
        prefix = "visual." if side == "image" else ""
        return f"{prefix}transformer.resblocks.{i}.{PUBLIC[matrix]}.{leaf}"

    def public_matrices(self, leaf: str) -> dict[str, torch.Tensor]:
        """Return the frozen matrices of all blocks by the public name of a tensor beside them."""
        encoders = {"text": self.text_encoder, "image": self.image_encoder.visual}
        return {
            self.public_name(f"sides.{side}.{i}.{name}.{leaf}"): weight
            for side, encoder in encoders.items()
            for i, block in enumerate(encoder.transformer.resblocks)
            for name, (weight, _) in matrices(block).items()
        }
