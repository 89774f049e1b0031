"""A CLIP with prompts: learner, encoders and score, for every method."""

import torch
from torch import nn

from . import scores
from .encoders import blocks
from .encoders.text import TextEncoder, TextFeatures
from .encoders.vision import ImageEncoder
from .errors import UserError
from .learner import PromptLearner
from .memory import MemoryPlan, choose
from .spec import PromptSpec

CHUNK_BYTES = 256 << 20


class PromptedCLIP(nn.Module):
    """A frozen CLIP whose prompts are trained, as a classifier of images over K class names.

    In train mode `logits` carry gradients for the prompts alone. In eval mode nothing carries a
    gradient and the text features are computed once, until a prompt changes.

    Args:
        clip_model: a stock `clip.model.CLIP`. Its modules are shared and frozen, not copied.
        classnames: K names; `_` reads as a space.
        spec: the method.
        dataset: name of the data set; selects the zero-shot sentence and PLOT's ImageNet rule.
        chunk_bytes: the most memory for the token-level costs of one chunk.

    Raises:
        UserError: a class name is too long, M, N, b or J do not fit the backbone.
    """

    def __init__(
        self,
        clip_model,
        classnames,
        spec: PromptSpec,
        dataset: str = "",
        chunk_bytes: int = CHUNK_BYTES,
    ):
        super().__init__()
        clip_model.requires_grad_(False)
        if spec.score == "plot" and dataset == "ImageNet":
            spec = spec.with_(add_global=True)
        self.spec = spec
        self.chunk_bytes = chunk_bytes
        patches = spec.token_level or spec.score == "plot"
        self.prompt_learner = PromptLearner(clip_model, spec, len(classnames))
        self.text_encoder = TextEncoder(
            clip_model, classnames, spec, dataset, words=spec.token_level
        )
        self.image_encoder = ImageEncoder(clip_model.visual, spec, patches=patches)
        self.register_buffer("logit_scale", clip_model.logit_scale.detach().exp())
        self._cache: tuple[tuple, TextFeatures] | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), float32, of normalised images (B, 3, H, W)."""
        if self.training:
            return self._forward(images)
        with torch.no_grad():
            return self._forward(images)

    def _forward(self, images):
        if self.spec.image_conditional:
            return self._image_conditional(images)
        contexts = self.prompt_learner()
        image = self.image_encoder(images, contexts.vision)
        learning = self.training and self.spec.N
        text = self.text_encoder(contexts.text) if learning else self.text_features()
        return scores.score(self.spec, image, text, self.logit_scale, self.chunk_bytes)

    @torch.no_grad()
    def text_features(self) -> TextFeatures:
        """The text features of the present prompts, computed once and kept until they change."""
        relevant = self if self.spec.N else self.text_encoder
        key = tuple((p.data_ptr(), p._version, p.device) for p in relevant.parameters())
        if self._cache is None or self._cache[0] != key:
            self._cache = key, self.text_encoder(self.prompt_learner().text)
        return self._cache[1]

    def train(self, mode: bool = True):
        """As `nn.Module.train`; the cached text features are dropped."""
        self._cache = None
        return super().train(mode)

    def _image_conditional(self, images):
        """CoCoOp: one text pass per image; in eval a few images at a time bound the memory."""
        image = self.image_encoder(images)
        z = image.z[:, 0].float()
        step = len(z) if self.training else 8
        parts = [
            scores.score(
                self.spec,
                type(image)(image.z[i : i + step], None),
                self.text_encoder(self.prompt_learner(z[i : i + step]).text),
                self.logit_scale,
                self.chunk_bytes,
            )
            for i in range(0, len(z), step)
        ]
        return torch.cat(parts)

    def fit_memory(self, budget: int, batch: int, itemsize: float = 4) -> MemoryPlan:
        """Recompute as little as makes a training step fit.

        Args:
            budget: bytes for what a step keeps for its backward pass (weights come on top); up
                to a sixteenth of it is for a chunk of token-level costs.
            batch: images of a step.
            itemsize: bytes of an activation, a value of `memory.ITEMSIZE`.

        Raises:
            UserError: the budget is too small; says what would do.
        """
        conditional = self.spec.image_conditional
        towers = {
            "text": self.text_encoder.footprint(batch if conditional else 1, itemsize),
            "image": self.image_encoder.footprint(batch, itemsize),
        }
        plans = 0
        if self.spec.token_level:
            _, K, L = self.text_encoder.layout.token_index.shape
            positions = len(self.image_encoder.visual.positional_embedding) - 1
            positions += self.spec.vision_length if self.spec.M else 0
            pairs = batch * max(self.spec.M, 1) * max(self.spec.N, 1) * K
            plans = 4 * pairs * positions * L  # float32, kept for the gradient
        self.chunk_bytes = min(CHUNK_BYTES, budget // 16)
        plan = choose(towers, plans, budget - self.chunk_bytes)
        self.text_encoder.recompute = "text" in plan.recompute
        self.image_encoder.recompute = "image" in plan.recompute
        return plan

    def hold_weights_in(self, dtype: torch.dtype) -> None:
        """Convert the weights that autocast would convert to `dtype` in every forward pass.

        What is between the blocks' matrix products stays float32.
        """
        blocks.hold_weights_in(dtype, self.text_encoder.transformer.resblocks)
        if self.image_encoder.is_vit:
            blocks.hold_weights_in(dtype, self.image_encoder.visual.transformer.resblocks)

    def compile_blocks(self) -> str | None:
        """Let torch.compile fuse what surrounds the matrix products of both towers' blocks.

        Returns:
            Why this machine cannot, in which case nothing changes; None if it can.
        """
        try:
            torch.compile(torch.sin)(self.logit_scale)
        except Exception as error:  # whatever the compiler has to say
            reason = next(iter(str(error).splitlines()), "")
            return f"{type(error).__name__}: {reason}"
        for encoder in (self.image_encoder, self.text_encoder):
            encoder._block = torch.compile(encoder._block)
        return None

    # ------------------------------------------------------------------ public checkpoints

    def public_parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters under their names in public whole-model checkpoints."""
        names = self.prompt_learner.public_names()
        return {names[own]: p for own, p in self.prompt_learner.named_parameters()}

    def public_state_dict(self) -> dict[str, torch.Tensor]:
        """The prompts alone, under the names and in the shapes of public checkpoints."""
        return {name: p.detach() for name, p in self.public_parameters().items()}

    @torch.no_grad()
    def load_public_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the prompts of a public checkpoint (methods.md, section 7).

        Args:
            state: names of the whole published model, or of its `prompt_learner` alone. The
                frozen CLIP and the `token_prefix` / `token_suffix` buffers in it are ignored.

        Raises:
            UserError: a name is unknown or missing, or a shape does not fit.
        """
        own = self.public_parameters()
        found = {}
        for name, value in state.items():
            full = name if name in own else "prompt_learner." + name
            if full in own:
                found[full] = value
            elif not self._ignorable(name):
                raise UserError(
                    f"The checkpoint has '{name}', which this method has not: it is of another "
                    "method, or of deeper prompts"
                )
        for name, parameter in own.items():
            if name not in found:
                raise UserError(
                    f"The checkpoint lacks '{name}': it is of another method, or of shallower "
                    "prompts"
                )
            wanted, given = tuple(parameter.shape), tuple(found[name].shape)
            if trimmed(given) != trimmed(wanted):  # a single prompt may or may not have its axis
                raise UserError(
                    f"The checkpoint's '{name}' has shape {given} but the configuration asks for "
                    f"{wanted}: make N_CTX, the number of prompts (of classes with CSC) and the "
                    "backbone those of the trained model"
                )
        for name, parameter in own.items():
            parameter.copy_(found[name].reshape(parameter.shape))

    def _ignorable(self, name: str) -> bool:
        if name.endswith(("token_prefix", "token_suffix")) or name == "logit_scale":
            return True
        encoder, _, rest = name.partition(".")
        if encoder == "image_encoder":
            return rest in self.image_encoder.visual.state_dict()
        return encoder == "text_encoder" and rest in self.text_encoder.state_dict()


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its leading axes of length 1."""
    while shape[:1] == (1,):
        shape = shape[1:]
    return shape
