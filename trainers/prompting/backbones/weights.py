"""Reads tensors from untrusted files: safetensors, `torch.save`, TorchScript archives.

Nothing in a file is executed. `torch.jit.load` would call the `__setstate__` of the classes in an
archive, which may write any file. So an archive is read here as a zip file: raw storages, and
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
from ..storage.files import damaged_part

DTYPES = {
    "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16, "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64, "IntStorage": torch.int32, "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}  # fmt: skip


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file by name, on the CPU.

    Args:
        path: of a `.safetensors` file, a TorchScript archive, or a file of `torch.save` with
            tensors by name, at the top or under `state_dict`.
    """
    try:
        state = _content(Path(path))
    except UserError:
        raise
    except Exception as error:  # a broken file raises errors of many types
        raise unreadable_weights(path, _reason(error)) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(map(torch.is_tensor, state.values())):
        raise unreadable_weights(path, "it is not a state dict, which has tensors by name")
    return state


def unreadable_weights(path, reason: str) -> UserError:
    """Return the error about a file from which no CLIP weights can be read."""
    return UserError(f"'{path}' holds no CLIP weights that can be read: {reason}")


def _content(path: Path):
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # late: another checkout may lack the package

        return load_file(path)
    if damaged := damaged_part(path):
        raise unreadable_weights(path, f"'{damaged}' in it has changed since it was written")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _tensors(_Reader(archive).load())
    return torch.load(path, map_location="cpu", weights_only=True)


def _reason(error: Exception) -> str:
    """Return a short description of an error, without PyTorch's advice to load unsafely."""
    if not isinstance(error, pickle.UnpicklingError):
        return in_short(error)
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    return f"it holds objects of {foreign[1]}, which could run code" if foreign else "it is damaged"


class _Reader(pickle.Unpickler):
    """Reads a TorchScript archive; classes become plain objects with attributes.

    A pickle calls what `find_class` returns. Here, that never has side effects, and the pickle
    cannot change it.
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
        if module == "torch.jit._pickle":  # lists of numbers, and typed values
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
    """Collect the parameters and buffers of a tree of modules under their `state_dict()` names."""
    tensors, seen, todo = {}, {id(root)}, [("", root)]
    while todo:
        prefix, module = todo.pop()
        for name, value in vars(module).items():
            if torch.is_tensor(value):
                tensors[prefix + name] = value
            elif isinstance(value, SimpleNamespace) and id(value) not in seen:
                seen.add(id(value))
                todo.append((f"{prefix}{name}.", value))
    return tensors
