"""The two sides of a CLIP, `image` and `text`: open, with CLIP's blocks, or closed (`Closed`)."""

from typing import Any

from ..backbones import family_of
from ..backbones.closed import Closed
from ..errors import ClosedSide


def is_closed(clip_model: Any, side: str) -> bool:
    """Return True if a side of a CLIP is used as a whole.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> is_closed(load_clip("emoji"), "image")
        False
    """
    module = clip_model.visual if side == "image" else getattr(clip_model, "text", None)
    return isinstance(module, Closed)


def kinds(clip_model: Any) -> tuple[str, str]:
    """Return how the image and the text side of a CLIP are read.

    Images: `class token`, `attention`, `mean` or `head` (the `shape` of their encoder), or
    `ResNet`; text: `causal`, or `both`, if positions attend to later ones, too. Or `closed`.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> kinds(load_clip("emoji"))
        ('class token', 'causal')
    """
    visual = clip_model.visual
    image = getattr(getattr(visual, "shape", None), "name", "class token")
    if is_closed(clip_model, "image"):
        image = "closed"
    elif not hasattr(visual, "transformer"):
        image = "ResNet"
    text = "causal" if family_of(clip_model).causal else "both"
    return image, "closed" if is_closed(clip_model, "text") else text


def need_open(clip_model: Any, side: str, does: str, remedy: str = "") -> None:
    """Raise ClosedSide if a method needs the inside of a closed side, `image` or `text`.

    `does` is what the method does there, as in "the method ...".
    """
    if is_closed(clip_model, side):
        raise ClosedSide(side, does, remedy)


def features_width(clip_model: Any) -> int:
    """Return D, the width of the features of a CLIP."""
    width: int = getattr(clip_model, "width", 0) or clip_model.text_projection.shape[1]
    return width


def widths(clip_model: Any) -> dict[str, int]:
    """Return the widths of the encoders with blocks, by side.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> widths(load_clip("emoji"))
        {'text': 128, 'image': 128}
    """
    encoders = {"text": clip_model, "image": clip_model.visual}
    return {
        side: encoder.transformer.resblocks[0].attn.embed_dim
        for side, encoder in encoders.items()
        if hasattr(encoder, "transformer")
    }
