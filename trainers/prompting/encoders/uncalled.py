"""The parts of a CLIP that are never called: the encoders run its blocks as functions (`blocks`).

A hook of PyTorch on such a part never fires, and a layer in its place has no effect but that of its
weights.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..errors import need
from .blocks import is_called
from .sides import is_closed

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
INSTEAD = (
    "the encoders run blocks as functions, so it has no effect: return additions from `blocks`, "
    "and read states of inner blocks with `inner` of ImageEncoder and TextEncoder"
)
NORMS = {"ln_1", "ln_2"}
USUAL: dict[str, type[nn.Module]] = {
    "attn": nn.MultiheadAttention,
    "out_proj": nn.Linear,
    "c_fc": nn.Linear,
    "c_proj": nn.Linear,
}


def uncalled_modules(clip_model: Any) -> dict[str, nn.Module]:
    """Return the modules of a CLIP that are never called, by name; the CLIP has the name ''.

    Examples:
        >>> from trainers.prompting import load_clip
        >>> list(uncalled_modules(load_clip("emoji")))[:4]
        ['', 'transformer', 'transformer.resblocks', 'transformer.resblocks.0']
    """
    found = {"": clip_model}
    for side, encoder in (("text", clip_model), ("image", clip_model.visual)):
        if is_closed(clip_model, side) or not hasattr(encoder, "transformer"):
            continue
        place = "" if side == "text" else "visual."
        found[place.rstrip(".")] = encoder
        modules = dict(encoder.transformer.named_modules(prefix=f"{place}transformer"))
        mlps = {name: module for name, module in modules.items() if hasattr(module, "c_fc")}
        whole = tuple(name for name, mlp in mlps.items() if is_called(mlp))
        found |= {
            name: module
            for name, module in modules.items()
            if NORMS.isdisjoint(name.split(".")) and not (whole and name.startswith(whole))
        }
    return found


def check_uncalled(name: str, before: Mapping[str, nn.Module]) -> None:
    """Refuse hooks on parts of a CLIP that are never called, and layers that were exchanged.

    `before` are the `uncalled_modules` of the CLIP before the method was built. A UserError says
    which.
    """
    now = uncalled_modules(before[""])
    for place, module in now.items():
        what = f"'{place}'" if place else "the CLIP"
        hooked = any(getattr(module, kind) for kind in HOOKS)
        need(not hooked, f"{name} has a hook on {what}, but {INSTEAD}")
        kind = type(module)
        usual = USUAL.get(place.rpartition(".")[2], kind)
        need(
            before.get(place) is module and kind.forward is usual.forward,
            f"{name} has put a {kind.__name__} in the place of {what}, but {INSTEAD}",
        )
