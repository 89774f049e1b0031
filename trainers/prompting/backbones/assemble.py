"""Builds a CLIP from the modules of OpenAI's class and the state dict of another library.

An `Architecture` for each encoder gives what the weights do not: heads, activation, epsilon. All
names and shapes must agree: a weight that CLIP lacks is an error, and is never dropped.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from ..errors import UserError
from .closed import Closed
from .family import Family
from .openai_clip import model as openai_model
from .shapes import AnyHead, Head, PatchViT

FIRST = 3  # names that an error lists


class Architecture(NamedTuple):
    """The architecture of one encoder of a CLIP: a transformer or a ResNet.

    width, layers, heads: of its blocks; for a ResNet, layers lists those of its four stages.
    hidden: width inside an MLP; activation: constructor of the MLPs' activation; eps: of the
    LayerNorms.
    """

    width: int
    layers: int | list[int]
    heads: int
    hidden: int
    activation: Callable[[], nn.Module]
    eps: float = 1e-5


class Sizes(NamedTuple):
    """The sizes of a CLIP outside its transformers.

    embed_dim: D of the features; resolution: of the square images; patch_size: in pixels;
    context_length: tokens in an input of the text encoder; vocab_size: number of different tokens.
    """

    embed_dim: int
    resolution: int
    patch_size: int
    context_length: int
    vocab_size: int


class CLIP(nn.Module):
    """Holds the modules of a CLIP that `backbones` lists; it has no forward pass.

    A closed side is `visual` or `text` itself, and has none of the modules of an open one. `bias`
    says whether there is a `logit_bias`, `text_bias` whether the text projection has one.
    """

    def __init__(
        self,
        visual: nn.Module,
        text: Architecture | nn.Module,
        sizes: Sizes,
        family: Family,
        bias: bool,
        text_bias: bool = False,
    ):
        super().__init__()
        self.visual = visual
        self.logit_scale = nn.Parameter(torch.empty(()))
        if bias:
            self.logit_bias = nn.Parameter(torch.empty(()))
        self.width = sizes.embed_dim
        self.context_length = sizes.context_length
        self.family = family
        if isinstance(text, Closed):
            self.text = text
            return
        if isinstance(text, nn.Module):  # opened
            for name, part in (*text.named_children(), *text.named_parameters(recurse=False)):
                setattr(self, name, part)
            return
        if text_bias:
            self.text_bias = nn.Parameter(torch.empty(sizes.embed_dim))
        self.transformer = openai_model.Transformer(text.width, text.layers, text.heads)
        self.token_embedding = nn.Embedding(sizes.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(sizes.context_length, text.width))
        self.ln_final = openai_model.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, sizes.embed_dim))
        set_mlps(self.transformer, text)
        self.ln_final.eps = text.eps


def closed_clip(
    image: Any,
    text: nn.Module,
    width: int,
    family: Family,
    context_length: int = 77,
    scale: float = 100.0,
    bias: float | None = None,
) -> CLIP:
    """Return a CLIP whose two sides are closed, in eval mode.

    Methods that never look inside run on it: logits are scale * cos(z, h) + bias.

    Args:
        image: from images to features (B, D).
        text: from token ids to features (n, D).
        width: D.
        family: its `tokenizer` makes the ids from sentences, `[sos] words eos [pad ...]`; how many
            and what they mean is between the two. With a `pad`, all have the length of the context.
        context_length: the most ids of a sentence.
        scale: of the logits, the factor itself and not its logarithm.
        bias: of the logits, or None.

    Examples:
        >>> look_up = Closed(nn.EmbeddingBag(3, 16))  # the mean of the vectors of the ids
        >>> from trainers.prompting.backbones.family import Tokenizer
        >>> words = Tokenizer(lambda text: [0] * len(text.split()), str, sos=None, eos=1, pad=2)
        >>> family = Family(words, (0, 0, 0), (1, 1, 1), "bicubic")
        >>> images = Closed(nn.Sequential(nn.Flatten(), nn.Linear(192, 16)), resolution=8)
        >>> clip_model = closed_clip(images, look_up, 16, family, context_length=9)
        >>> from trainers.prompting import build_method
        >>> method = build_method("ZeroshotCLIP", {}, clip_model, ["cat", "dog"])
        >>> method(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 2])
    """
    sizes = Sizes(width, image.input_resolution, 1, context_length, 1)
    built = CLIP(image, text, sizes, family, bias is not None)
    built.logit_scale.data = torch.tensor(scale).log()
    if bias is not None:
        built.logit_bias.data = torch.tensor(bias)
    return built.float().eval()


def image_encoder(vision: Architecture, sizes: Sizes, shape: str = "class token") -> nn.Module:
    """Build an open image encoder of an architecture.

    Its shape is `class token` (OpenAI's), `attention` (SigLIP's) or `mean` (CLIPA's).
    """
    if shape == "attention":
        assert isinstance(vision.layers, int)
        head = Head(vision.width, vision.heads, vision.hidden, vision.eps, vision.activation())
        visual = PatchViT(vision.width, vision.layers, sizes.resolution, sizes.patch_size, head)
        set_mlps(visual, vision)
        return visual
    if isinstance(vision.layers, list):
        return openai_model.ModifiedResNet(
            vision.layers, sizes.embed_dim, vision.heads, sizes.resolution, vision.width
        )
    visual = openai_model.VisionTransformer(
        sizes.resolution,
        sizes.patch_size,
        vision.width,
        vision.layers,
        vision.heads,
        sizes.embed_dim,
    )
    set_mlps(visual, vision)
    if shape == "mean":
        visual.ln_pre, visual.shape = nn.Identity(), AnyHead(1, True, False, "mean")
    return visual


def clips_norm(norm: nn.Module) -> nn.Module:
    """Return another library's LayerNorm as OpenAI's, which takes half precision; else itself."""
    if not isinstance(norm, nn.LayerNorm):
        return norm
    made = openai_model.LayerNorm(norm.normalized_shape, eps=norm.eps)
    weight = norm.weight.detach()
    bias = torch.zeros_like(weight) if norm.bias is None else norm.bias.detach()
    made.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return made


def set_mlps(module: nn.Module, architecture: Architecture) -> None:
    """Set the MLPs and epsilons in a module, which OpenAI's class hard-codes."""
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.eps = architecture.eps
        elif isinstance(part, openai_model.ResidualAttentionBlock):
            layers = {
                "c_fc": nn.Linear(architecture.width, architecture.hidden),
                "gelu": architecture.activation(),
                "c_proj": nn.Linear(architecture.hidden, architecture.width),
            }
            part.mlp = nn.Sequential(OrderedDict(layers))


def assemble(
    state: Mapping[str, torch.Tensor],
    vision: Architecture,
    text: Architecture,
    sizes: Sizes,
    family: Family,
    source: str,
    arch: str,
    shape: str = "class token",
    closed: Mapping[str, nn.Module] = {},
) -> CLIP:
    """Build the CLIP with these weights, under the names of OpenAI's class, float32, in eval mode.

    `state` may include `logit_bias` and `text_bias`; sides in `closed`, `image` or `text`, have
    their own weights. `source` and `arch` are for messages.
    """
    with torch.device("meta"):  # draws no random numbers, and takes no memory
        visual = closed.get("image") or image_encoder(vision, sizes, shape)
        bias, text_bias = "logit_bias" in state, "text_bias" in state
        built = CLIP(visual, closed.get("text", text), sizes, family, bias, text_bias)
    weights = dict(state)
    for name in {"logit_scale", "logit_bias"} & weights.keys():
        weights[name] = weights[name].reshape(())  # of shape (1,) in some files
    whole: tuple[str, ...] = ("visual.",) if "image" in closed else ()
    if "text" in closed:
        given = closed["text"]
        whole += ("text.",) if isinstance(given, Closed) else tuple(given.state_dict())
    own = {n: x for n, x in built.state_dict().items() if not (whole and n.startswith(whole))}
    check_names_and_shapes(own, weights, source, arch)
    weights = {name: value.float() for name, value in weights.items()}
    built.load_state_dict(weights, strict=not closed, assign=True)
    return built.float().eval()


def check_names_and_shapes(
    own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], source: str, arch: str
) -> None:
    """Refuse weights of other names or shapes than a model's; a UserError has the first."""
    odd = [f"no {name}" for name in own if name not in weights]
    odd += [f"{name}, which CLIP lacks" for name in weights if name not in own]
    odd += [
        f"{name} of shape {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in weights.items()
        if name in own and value.shape != own[name].shape
    ]
    if odd:
        more = f" and {len(odd) - FIRST} more" if len(odd) > FIRST else ""
        raise UserError(
            f"{source} does not hold weights of {arch} that fit CLIP (it has "
            f"{'; '.join(odd[:FIRST])}{more}): check that the weights belong to this architecture"
        )
