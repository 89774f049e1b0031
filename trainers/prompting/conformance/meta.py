"""A step on the device `meta`, whose tensors have shapes only.

As on a GPU, reading a value there is an error, for which the host would wait; so are two devices in
one operation.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..method import Batch, Method
from ..running.precision import Precision
from ..step import training_step

META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Lets an operation have tensors of one device, except for copies and numbers."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call an operation; raises RuntimeError for tensors on two devices."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        copies = func.overloadpacket.__name__ in ("_to_copy", "copy_")
        if len({x.device for x in tensors if x.dim()}) > 1 and not copies:
            raise RuntimeError(f"tensors on two devices: {func}")
        return func(*args, **(kwargs or {}))


def step_on_meta(method: Method, clip_model: Any, batch: Batch) -> None:
    """Move a method and its CLIP to `meta`; do a training step, if it learns, and an evaluation.

    Raises:
        NotImplementedError, RuntimeError: a value is read, or an operation has two devices.
    """
    how = Precision("fp32", META)
    how.autocast = nullcontext  # type: ignore[assignment, method-assign] # meta has none
    how.place(method, clip_model)
    clip_model.to(META)  # on a GPU, tensors in both are still the same after `place`
    method.to(META).train()
    views = [view.to(META) for view in batch.views]
    index = None if batch.index is None else batch.index.to(META)
    batch = method.batch(views, batch.labels.to(META), index)
    with OneDevice():
        if parameters := list(method.learned().values()):
            training_step(method, batch, torch.optim.SGD(parameters, lr=0.1, momentum=0.9), how)
        method.eval()
        with torch.no_grad():
            method(views[0])
