"""ATPrompt (Li et al., ICCV 2025; arXiv:2412.09442).

Advancing Textual Prompt Learning with Anchored Attributes. The context has frozen words for
attributes between learned tokens: [T]..[T] color [T]..[T] shape [T]..[T] {class name}.
"""

from dataclasses import dataclass

import torch
from torch import nn

from trainers.prompting import (
    Contexts,
    ImageEncoder,
    Method,
    Public,
    TextEncoder,
    register,
    word_embeddings,
    write_sentences,
)
from trainers.prompting.prompts import Size, check_size


def tokens(n, width, std=0.02):
    """Return learned tokens (n, width), drawn from N(0, std^2)."""
    return nn.Parameter(std * torch.randn(n, width))


class Attributes(nn.Module):
    """Contexts of learned tokens and attribute words; with a visual width, also MaPLe's maps.

    Args:
        words: embeddings (t, W) of each attribute, which has t tokens.
        lengths: numbers of learned tokens before each attribute.
        n: number of learned tokens before the class name; only these are new in deeper blocks.
        depth: J, the number of blocks with own tokens.
        visual_width: of the image encoder; 0 for no visual prompts.
    """

    def __init__(self, words, lengths, n, depth=1, visual_width=0):
        super().__init__()
        width = words[0].shape[1]
        self.ctx = tokens(n, width)
        for i, (word, length) in enumerate(zip(words, lengths, strict=True), start=1):
            self.register_buffer(f"word{i}", word, persistent=False)  # neither trained nor saved
            self.register_parameter(f"ctx_att{i}", tokens(length, width, 0.01))
        self.count, self.to_images = len(words), bool(visual_width)
        if self.to_images:
            self.compound_prompts_text = nn.ParameterList(
                tokens(n, width) for _ in range(depth - 1)
            )
            self.proj, *rest = (nn.Linear(width, visual_width) for _ in range(depth))
            self.compound_prompt_projections = nn.ModuleList(rest)

    def forward(self):
        """Return contexts: text (1, b, W), then (1, n, W) for the last n; images (1, n, width)."""
        first = []
        for i in range(1, self.count + 1):
            first += [getattr(self, f"ctx_att{i}"), getattr(self, f"word{i}")]
        text = [torch.cat([*first, self.ctx])]
        if not self.to_images:
            return Contexts([text[0][None]])
        deep = list(self.compound_prompts_text)
        maps = [self.proj, *self.compound_prompt_projections]
        vision = [f(c)[None] for f, c in zip(maps, [self.ctx, *deep], strict=True)]
        return Contexts([c[None] for c in text + deep], vision)


@register
class ATPrompt(Method):
    """ATPrompt, shallow version: CoOp's context with attributes before it. L = CE.

    If an attribute has several tokens (`playfulness`, for OxfordPets), the public code uses only
    the first and shifts what follows; here all of its tokens are used.
    """

    node = "ATPROMPT"
    public = Public(
        submodule="prompt_learner",
        dead=("ctx_att", "token_middle"),  # tokens of unused attributes
        outside={key: f"TRAINER.COOP.{key}" for key in ("N_CTX", "PREC")},
        ignored=("USE_ATPROMPT",),  # without attributes the method is CoOp
    )
    takes = ("llm",)  # a language model proposed the attributes

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        """The public keys and defaults; the default attributes are those of ImageNet."""

        N_CTX: int = 16
        ATT_NUM: int = 2
        N_ATT1: int = 4
        N_ATT2: int = 4
        N_ATT3: int = 4
        ATT1_TEXT: str = "color"
        ATT2_TEXT: str = "shape"
        ATT3_TEXT: str = "none"

    def attributes(self):
        """Return the text of each attribute in use, and the number of learned tokens before it."""
        s = self.settings
        return [
            (getattr(s, f"ATT{i}_TEXT"), getattr(s, f"N_ATT{i}")) for i in range(1, s.ATT_NUM + 1)
        ]

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders; all tokens of the template before the class name are learned."""
        s = self.settings
        words = [word_embeddings(clip_model, name, before="X") for name, _ in self.attributes()]
        pieces = [f"{'X ' * n}{name} " for name, n in self.attributes()]
        template = "".join(pieces) + " ".join("X" * s.N_CTX)
        lengths = [n for _, n in self.attributes()]
        self.pieces = words, lengths
        b = sum(map(len, words)) + sum(lengths) + s.N_CTX
        sentences = write_sentences(clip_model, [template], classnames, b)
        return TextEncoder(clip_model, sentences), ImageEncoder(clip_model.visual)

    def build(self, clip_model, classnames, dataset, **deep):
        """Make the contexts."""
        self.prompt_learner = Attributes(*self.pieces, self.settings.N_CTX, **deep)

    def contexts(self):
        """Return the contexts."""
        return self.prompt_learner()


@register
class DeepATPrompt(ATPrompt):
    """ATPrompt, deep version, with MaPLe: PROMPT_DEPTH blocks have own tokens before the class."""

    public = Public(
        folder="MultiModalPromptLearner",
        submodule="",
        outside={key: f"TRAINER.MAPLE.{key}" for key in ("N_CTX", "PROMPT_DEPTH", "PREC")},
    )

    @dataclass(frozen=True)
    class Settings(ATPrompt.Settings):
        """MaPLe's keys instead of CoOp's."""

        N_CTX: int = 2
        PROMPT_DEPTH: int = 9

    def encoders(self, clip_model, classnames, dataset):
        """Make the encoders, which must have PROMPT_DEPTH blocks."""
        size = Size(self.settings.N_CTX, self.settings.PROMPT_DEPTH, ("N_CTX", "PROMPT_DEPTH"))
        check_size(clip_model, "text", size)
        check_size(clip_model, "image", size)
        return super().encoders(clip_model, classnames, dataset)

    def build(self, clip_model, classnames, dataset):
        """Make the contexts and maps."""
        width = clip_model.visual.conv1.weight.shape[0]
        super().build(
            clip_model, classnames, dataset, depth=self.settings.PROMPT_DEPTH, visual_width=width
        )
