"""A CLIP with prompts: learner, encoders and score, for every method.

The file is long because every way from images and prompts to logits is in one place.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from .. import scores
from ..backbones import family_of
from ..encoders import blocks
from ..encoders.added import SIDES, blocks_of, check_added
from ..encoders.sentences import around_name, check_names
from ..encoders.text import TextEncoder, TextFeatures
from ..encoders.vision import ImageEncoder, ImageFeatures
from ..errors import UserError
from ..running import compiling
from ..spec import PromptSpec
from ..storage.checkpoints import load_public_state
from .learner import Contexts, PromptLearner, check_contexts
from .parts import Output, Parts

CHUNK_BYTES = 256 << 20
OF_CLASS_NAMES = ("token_prefix", "token_suffix")  # buffers in public checkpoints


class PromptedCLIP(nn.Module):
    """A frozen CLIP with trained prompts, as a classifier of images over K class names.

    In train mode `logits` carry gradients only for the trained parameters. In eval mode nothing
    carries a gradient, and text features are computed once and kept until a prompt changes.

    Args:
        clip_model: a stock `clip.model.CLIP`. Its modules are used and frozen, not copied.
        classnames: K names; `_` reads as a space.
        spec: the method.
        dataset: name of the data set; selects the zero-shot sentence and PLOT's ImageNet rule.
        chunk_bytes: the most memory for the token-level costs of one chunk.

    Raises:
        UserError: a class name is too long, M, N, b or J do not fit the backbone.
        ValueError, TypeError: `classnames` is not a list of names.

    Examples:
        >>> from trainers.prompting import load_clip, prompt_spec
        >>> spec = prompt_spec("ALIGN", {"M": 2, "N": 3, "DEPTH": 2})
        >>> model = PromptedCLIP(load_clip("emoji"), ["cat", "dog", "fox"], spec).eval()
        >>> model(torch.zeros(5, 3, 64, 64)).shape
        torch.Size([5, 3])
    """

    logit_scale: torch.Tensor
    logit_bias: torch.Tensor | None

    def __init__(
        self,
        clip_model: Any,
        classnames: Sequence[str],
        spec: PromptSpec,
        dataset: str = "",
        chunk_bytes: int = CHUNK_BYTES,
    ):
        super().__init__()
        check_names(classnames)
        clip_model.requires_grad_(False)
        if spec.score == "plot" and dataset == "ImageNet":
            spec = spec.with_(add_global=True)
        if spec.N and not spec.text_length:  # all tokens before the class name
            words = around_name(spec.templates[0])[0]
            spec = spec.with_(text_length=len(family_of(clip_model).tokenizer.encode(words)))
        self.spec = spec
        self.chunk_bytes = chunk_bytes
        wanted = scores.needs(spec)
        self.prompt_learner = PromptLearner(clip_model, spec, len(classnames))

        self.num_classes = len(classnames)
        self.text_encoder = TextEncoder(clip_model, classnames, spec, dataset, words=wanted.words)
        self.image_encoder = ImageEncoder(clip_model.visual, spec, patches=wanted.patches)
        self.parts = Parts()
        self.submodule = "prompt_learner"  # public checkpoints may omit this prefix of names
        self.dead_weights: tuple[str, ...] = ()  # prefixes of names in them that have no effect
        self.register_buffer("logit_scale", clip_model.logit_scale.detach().exp())
        bias = getattr(clip_model, "logit_bias", None)  # of CLIPs with a sigmoid loss
        self.register_buffer("logit_bias", None if bias is None else bias.detach())
        self._cache: tuple[tuple[object, ...], TextFeatures] | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, K), float32, of normalised images (B, 3, H, W)."""
        return self.output(images).logits

    def output(self, images: torch.Tensor) -> Output:
        """Return the logits of normalised images (B, 3, H, W), and the features they come from.

        If the method reads only the feature of CLIP's own image encoder, the output (B, D) of
        `image_features` may replace the images.

        Pixels are validated on the CPU only. On another device, an image with a pixel that is nan
        or infinite gets nan for logits. With the scores `released` and `plot`, which like their
        public codes solve transport for the whole batch, the other images' logits then change, too.

        Raises:
            ValueError: the images have another shape or, on the CPU, pixels that are nan or
                infinite.
        """
        self._check(images)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            if self.spec.image_conditional:
                return self._image_conditional(self._encode_images(images, Contexts(None, None)))
            contexts = self.contexts()
            image = self._encode_images(images, contexts)
            text = self._text(contexts)
            return Output(self.score(image, text), image, text)

    def contexts(self, z: torch.Tensor | None = None) -> Contexts:
        """Return the contexts for the encoders: those of the prompt learner, changed by the parts.

        Args:
            z: as in `PromptLearner.forward`.
        """
        return self.parts.contexts(self.prompt_learner(z))

    def set_scale(self, scale: float) -> None:
        """Set the logit scale; 0 keeps CLIP's.

        Raises:
            UserError: it is negative, or not finite.
        """
        if not 0 <= scale < math.inf:
            raise UserError(f"SCALE is {scale} but must be positive, or 0 for the CLIP's own")
        if scale:
            self.logit_scale.fill_(scale)

    @torch.no_grad()
    def check_parts(self, name: str, clip_model: Any) -> None:
        """Refuse parts that do not fit the encoders.

        Args:
            name: of the method.
            clip_model: the CLIP from which the model was built.

        Raises:
            UserError: says which, where and why.
        """
        for side in SIDES:
            if added := self.parts.blocks(side):
                check_added(name, side, added, blocks_of(clip_model, side))
        z = torch.zeros(1, self.feature_width) if self.spec.image_conditional else None
        towers = self.text_encoder, self.image_encoder.visual
        check_contexts(self.contexts(z), self.spec, self.num_classes, towers, name)

    def score(self, image: ImageFeatures, text: TextFeatures) -> torch.Tensor:
        """Return logits (B, K), float32, of features: the score's, changed by parts and bias."""
        how = self.logit_scale, self.chunk_bytes, self.parts.logits, self.logit_bias
        return scores.score(self.spec, image, text, *how)

    def logits(self, image: ImageFeatures) -> torch.Tensor:
        """Return logits (B, K), float32, in eval mode, of the `image` of another model's `output`.

        The other model has the same trained values, but other class names.
        """
        if self.spec.image_conditional:
            return self._image_conditional(image).logits
        return self.score(image, self.text_features())

    @property
    def feature_width(self) -> int:
        """D, the width of the features."""
        return int(self.text_encoder.text_projection.shape[1])

    @torch.no_grad()
    def image_features(self, images: torch.Tensor) -> torch.Tensor:
        """Return features (B, D), float32, of images (B, 3, H, W): no prompts, not normalised.

        Raises:
            ValueError: as `output`.
        """
        self.image_encoder.check(images)
        features: torch.Tensor = self.image_encoder(images, unit=False).z[:, 0].float()
        return features

    def _check(self, images: torch.Tensor) -> None:
        """Refuse images, or features in their place, that `output` cannot read."""
        spec, encoder = self.spec, self.image_encoder
        if images.dim() == 2 and images.shape[1] == self.feature_width:
            more = spec.M or spec.states or spec.values or encoder.patches
            if not (more or self.parts.blocks("image")):
                return
        encoder.check(images)

    def _encode_images(self, images: torch.Tensor, contexts: Contexts) -> ImageFeatures:
        if images.dim() == 2:
            return self.parts.image(ImageFeatures(F.normalize(images, dim=-1)[:, None], None))
        added = self.parts.blocks("image")
        return self.parts.image(self.image_encoder(images, contexts.vision, added))

    def _encode_text(self, contexts: Contexts) -> TextFeatures:
        added = self.parts.blocks("text")
        found: TextFeatures = self.text_encoder(contexts.text, contexts.inserted, added)
        return found

    @property
    def _text_learns(self) -> bool:
        """True if something inside the text encoder is trained."""
        return self.spec.N > 0 or bool(self.parts.blocks("text"))

    def _text(self, contexts: Contexts) -> TextFeatures:
        """Return the text features for the score."""
        encode_now = self.training and self._text_learns
        return self.parts.text(self._encode_text(contexts) if encode_now else self._encoded_text())

    @torch.no_grad()
    def text_features(self) -> TextFeatures:
        """Return the text features of the current prompts and parts, without gradient."""
        return self.parts.text(self._encoded_text())

    @torch.no_grad()
    def _encoded_text(self) -> TextFeatures:
        """Return the output of the text encoder, which is kept until a weight changes."""
        values: Iterable[torch.Tensor] = self.text_encoder.parameters()
        if self._text_learns:
            values = chain(self.parameters(), self.parts.buffers())
        key = tuple((x.data_ptr(), x._version, x.device) for x in values)
        if self._cache is None or self._cache[0] != key:
            with torch.inference_mode(False), torch.no_grad():  # so that training can read it
                self._cache = key, self._encode_text(self.contexts())
        return self._cache[1]

    def train(self, mode: bool = True) -> Self:
        """Do the same as `nn.Module.train`, and drop cached text features that training changes."""
        if mode and self._text_learns:
            self._cache = None
        return super().train(mode)

    def _image_conditional(self, image: ImageFeatures) -> Output:
        """Return the output with one text pass per image (CoCoOp).

        An evaluation takes a few images at a time, to bound the memory.
        """
        z = image.z[:, 0].float()
        step = len(z) if self.training else 8
        texts, logits = [], []
        for i in range(0, len(z), step):
            contexts = self.contexts(z[i : i + step])
            texts.append(self.parts.text(self._encode_text(contexts)))
            logits.append(self.score(image._replace(z=image.z[i : i + step]), texts[-1]))
        text = texts[0]._replace(
            h=torch.cat([t.h for t in texts]), raw=torch.cat([t.raw for t in texts])
        )
        return Output(torch.cat(logits), image, text)

    def hold_weights_in(self, dtype: torch.dtype) -> None:
        """Convert the weights that autocast would convert to `dtype` in every forward pass.

        Everything between the matrix products of the blocks stays float32.
        """
        blocks.hold_weights_in(dtype, self.text_encoder.transformer.resblocks)
        if self.image_encoder.is_vit:
            blocks.hold_weights_in(dtype, self.image_encoder.visual.transformer.resblocks)

    def compile_blocks(self) -> str | None:
        """Compile both encoders' blocks with torch.compile, which fuses all but matrix products.

        Returns:
            None, or the reason why the compiler does not work; then nothing changes.
        """
        obstacle = compiling.obstacle(self.logit_scale)
        if obstacle is None:
            for encoder in (self.image_encoder, self.text_encoder):
                encoder._block = compiling.compiled(encoder._block)  # type: ignore[method-assign]
        return obstacle

    # ------------------------------------------------------------------ trained parameters

    def trained(self) -> nn.ModuleDict:
        """Return the modules that are trained: the prompt learner and the parts."""
        return nn.ModuleDict({"prompt_learner": self.prompt_learner, "parts": self.parts})

    def public_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters under their names in public whole-model checkpoints."""
        prompts, parts = self._public_prompts(), self._public_parts()
        if twice := prompts.keys() & parts.keys():
            raise UserError(
                f"'{min(twice)}' would name both a prompt and a part in checkpoints: give "
                f"the Parts '{type(self.parts).__name__}' another `prefix`"
            )
        return prompts | parts

    def _public_prompts(self) -> dict[str, nn.Parameter]:
        names = self.prompt_learner.public_names()
        return {names[own]: p for own, p in self.prompt_learner.named_parameters()}

    def _public_parts(self) -> dict[str, nn.Parameter]:
        return {self.parts.public_name(own): p for own, p in self.parts.named_parameters()}

    def public_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the trained parameters, with the names and shapes of public checkpoints."""
        return {name: p.detach() for name, p in self.public_parameters().items()}

    def load_public_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the prompts of a public checkpoint (docs/methods.md, section 7).

        Args:
            state: the state of the whole published model, or only of its `submodule`. Frozen and
                unused weights in it are ignored.

        Raises:
            UserError: a name is unknown or missing, or a shape does not fit.
        """
        own = self._public_prompts(), self._public_parts()
        load_public_state(*own, state, self._is_ignored, self.submodule)

    def _is_ignored(self, name: str) -> bool:
        """Return True if a name in a public checkpoint is that of a frozen or unused weight."""
        dead = name.removeprefix(self.submodule + ".").startswith(self.dead_weights)
        if dead or name.endswith(OF_CLASS_NAMES) or name == "logit_scale":
            return True
        encoder, _, rest = name.partition(".")
        if encoder == "image_encoder":
            return rest in self.image_encoder.visual.state_dict()
        return encoder == "text_encoder" and rest in self.text_encoder.state_dict()
