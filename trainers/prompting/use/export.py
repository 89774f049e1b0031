"""Export of a trained model: a program from images to logits, or a classifier of text features."""

from collections.abc import Mapping
from copy import copy, deepcopy

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..contract import ENCODERS
from ..encoders.added import merge, without_updates
from ..encoders.text import TextFeatures
from ..errors import UserError, need
from ..method import Method
from ..prompts import Contexts
from ..teacher import MethodTeacher, Teacher

TOLERANCE = 1e-4  # largest difference of logits; of a program's, relative to the largest logit
TRACED = 3  # images that a program is traced with; it takes any number


class Program(nn.Module):
    """A method for inference: what does not depend on the images is stored as constants.

    The method must be in eval mode; the functions below also need float32.
    """

    h: torch.Tensor
    raw: torch.Tensor
    s: torch.Tensor | None

    def __init__(self, method: Method):
        super().__init__()
        self.method = own = _twin(method)
        if method.conditional:
            return
        del own._modules["text_encoder"]
        updates = method.blocks("image")
        if any(addition.weights for addition in updates.values()):
            own.image_encoder = deepcopy(method.image_encoder)
            merge(updates, own.image_encoder.visual.transformer.resblocks)
            rest = without_updates(own.blocks("image"))
            own.blocks = lambda side: rest  # type: ignore[method-assign]
        with torch.no_grad():
            vision, text = method.contexts().vision or [], method.text()
        self.depth, self.s_weights, self.inner = len(vision), text.s_weights, [*text.inner]
        own.contexts = self.contexts  # type: ignore[method-assign]
        own.text_features = self.text_features  # type: ignore[method-assign]
        constants = {f"vision_{i}": context for i, context in enumerate(vision)}
        constants |= {f"inner_{i}": states for i, states in text.inner.items()}
        for name, value in (constants | {"h": text.h, "raw": text.raw, "s": text.s}).items():
            self.register_buffer(name, value if value is None else value.detach().clone())
        self._drop_unused()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, K), float32, of normalised images (B, 3, H, W)."""
        return self.method.output(images).logits

    def contexts(self) -> Contexts:
        """Return the contexts of images, as constants."""
        vision = [getattr(self, f"vision_{i}") for i in range(self.depth)]
        return Contexts(vision=vision or None)

    def text_features(self, contexts: Contexts) -> TextFeatures:
        """Return the features of the classes, as constants."""
        inner = {i: getattr(self, f"inner_{i}") for i in self.inner}
        return TextFeatures(self.h, self.raw, self.s, self.s_weights, inner)

    @torch.no_grad()
    def _drop_unused(self) -> None:
        """Remove the tensors of the method that no image is computed with."""
        with _Seen() as seen:
            self(random_images(self.method))
        for name, module in self.method.named_modules():
            if name.partition(".")[0] in ENCODERS:
                continue
            for tensors in (module._parameters, module._buffers):
                for leaf in [leaf for leaf, value in tensors.items() if id(value) not in seen.ids]:
                    tensors[leaf] = None  # type: ignore[assignment]


class _Seen(TorchFunctionMode):
    """Collects the identities of the tensors that functions read."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.ids |= set(map(id, tree_leaves((args, kwargs))))
        return func(*args, **kwargs or {})


def _twin(method: Method) -> Method:
    """Return a copy of a method that shares the encoders and the teachers."""
    own = copy(method)
    own._parameters, own._buffers = dict(method._parameters), dict(method._buffers)
    own._modules = {
        name: module
        if name in ENCODERS or isinstance(module, (Teacher, MethodTeacher))
        else deepcopy(module)
        for name, module in method._modules.items()
    }
    return own


def check_fixed(method: Method) -> None:
    """Refuse a method that adapts to the images that it classifies; raises UserError."""
    if type(method).predict is not Method.predict:
        raise UserError(
            f"{type(method).__name__} adapts to the images that it classifies (`predict`), which "
            "an exported file cannot: use `predict`, or `load_run` in Python"
        )


def program(method: Method, size: int) -> torch.export.ExportedProgram:
    """Return a `torch.export` program, from images (B, 3, size, size) to logits (B, K)."""
    check_fixed(method)
    images = torch.randn(TRACED, 3, size, size, device=method.device)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        return torch.export.export(
            Program(method).eval(), (images,), dynamic_shapes=({0: batch},), strict=False
        )


@torch.no_grad()
def text_classifier(method: Method) -> Mapping[str, torch.Tensor]:
    """Return the text features as weights of a linear classifier on the CLIP's image features.

    Returns:
        `weight` (K, D), normalised; `logit_scale` (); `logit_bias` () where the CLIP has one. The
        logits of an image with normalised features z are logit_scale * weight z + logit_bias.
    """
    check_fixed(method)
    need(
        type(method).output is Method.output
        and not method.contexts().vision
        and len(method.text().h) == 1,
        f"{type(method).__name__} cannot be written as text features: only methods that change "
        "nothing in the image encoder and have one feature per class can, such as CoOp, KgCoOp, "
        "ProGrad, TCP, CLAP and ZeroshotCLIP. Write a .pt2 or .onnx instead",
    )
    tensors = {"weight": method.text().h[0], "logit_scale": method.logit_scale}
    if method.logit_bias is not None:
        tensors["logit_bias"] = method.logit_bias
    tensors = {name: value.detach().float().contiguous() for name, value in tensors.items()}
    images = random_images(method)
    z = method.image_encoder(images).z[:, 0].float()
    logits = tensors["logit_scale"] * z @ tensors["weight"].T + tensors.get("logit_bias", 0)
    apart = float((logits - method(images)).abs().max())
    if not apart <= TOLERANCE:
        raise UserError(
            "The text features of this method are not a classifier: logits computed from them are "
            f"off by {apart:.1e}, because it changes more than the text. Nothing is written: "
            "export a .pt2 or .onnx instead"
        )
    return tensors


def random_images(method: Method) -> torch.Tensor:
    """Return two images (2, 3, H, H), always the same, to compare logits on."""
    size = method.image_encoder.visual.input_resolution
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(method.device)
