"""Tensors out of files, whoever wrote them: safetensors, `torch.save`, TorchScript archives.

Nothing in a file is run. `torch.jit.load` calls the `__setstate__` of the classes in an archive,
which may write any file, so an archive is read here as what it is: a zip of raw storages beside
`data.pkl`, the tree of modules that hold them.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import torch

from ..errors import UserError, in_short
from ..storage.checkpoints import is_dense
from ..storage.files import damaged_part

MOST_TENSORS = 5_000  # the largest CLIPs have some 1,500
DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file by name, on the CPU.

    Args:
        path: of a `.safetensors` file, a TorchScript archive, or a file of `torch.save` with
            tensors by name, which may stand in it under `state_dict`.

    Raises:
        UserError: there is no such file, it is damaged, or it holds something else.
    """
    try:
        state = _content(Path(path))
        state = state.get("state_dict", state) if isinstance(state, dict) else state
        flaw = _flaw(state)
    except UserError:
        raise
    except Exception as error:  # a broken file raises nearly every type there is
        raise unreadable(path, _reason(error)) from error
    if flaw:
        raise unreadable(path, flaw)
    return dict(state)


def unreadable(path, reason: str) -> UserError:
    """The error about a file without the weights that are looked for."""
    return UserError(f"'{path}' holds no CLIP weights that can be read: {reason}")


def _content(path: Path):
    if not path.is_file():
        raise unreadable(path, "it is not a file that is there")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if damaged := damaged_part(path):
        raise unreadable(path, f"'{damaged}' in it has changed since it was written")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _tensors(_Reader(archive).load())
    return torch.load(path, map_location="cpu", weights_only=True)


def _flaw(state) -> str | None:
    """Why what a file holds cannot be the weights of a CLIP; None if it can."""
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and is_dense(value) for name, value in state.items()
    ):
        return "it is no state dict, tensors of real numbers by name"
    if len(state) > MOST_TENSORS:
        return f"it has {len(state)} tensors, which no CLIP has"
    for name, value in state.items():
        if not value.numel() or name.endswith("attn_mask"):  # which has -inf
            continue
        if not torch.stack(value.aminmax()).isfinite().all():  # nan where one is, in one pass
            return f"'{name}' in it holds numbers that are not finite"
    return None


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file  # a checkout around us may lack the package
    except ImportError as error:
        raise UserError(
            f"'{path}' is read by the package safetensors: run `pip install safetensors`"
        ) from error
    return load_file(path)


def _reason(error: Exception) -> str:
    """An error in short, without PyTorch's advice to load the file in another way."""
    if not isinstance(error, pickle.UnpicklingError):
        return in_short(error)
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    return f"it holds objects of {foreign[1]}, which could run code" if foreign else "it is damaged"


class _Reader(pickle.Unpickler):
    """Reads a TorchScript archive; what is no tensor becomes a plain object with attributes.

    A pickle calls what `find_class` gives it. Nothing that this gives has an effect, and nothing
    of it can be changed by the pickle.
    """

    def __init__(self, archive: zipfile.ZipFile):
        (tree,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        super().__init__(archive.open(tree))
        self._archive, self._folder = archive, tree.removesuffix(".pkl")
        self._storages: dict[str, bytearray] = {}

    def find_class(self, module: str, name: str):
        if module.partition(".")[0] == "__torch__":
            return SimpleNamespace
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # lists of numbers, and values with a type
            return self._as_it_is
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid):
        _, dtype, key, *_ = pid
        if key not in self._storages:
            self._storages[key] = bytearray(self._archive.read(f"{self._folder}/{key}"))
        content = self._storages[key]
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)

    def _tensor(self, storage, offset, size, stride, *_):
        return storage.as_strided(size, stride, offset)

    def _as_it_is(self, value, *_):
        return value


def _tensors(root) -> dict[str, torch.Tensor]:
    """All tensors of a tree of modules, parameters and buffers as `state_dict()` names them."""
    found, seen, todo = {}, {id(root)}, [("", root)]
    while todo:
        prefix, module = todo.pop()
        for name, value in vars(module).items():
            if torch.is_tensor(value):
                found[prefix + name] = value
            elif isinstance(value, SimpleNamespace) and id(value) not in seen:
                seen.add(id(value))
                todo.append((f"{prefix}{name}.", value))
    return found
