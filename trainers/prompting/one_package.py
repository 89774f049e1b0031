"""One package under two names: `trainers.prompting` in a repository, `promptedclip` installed.

Whichever is imported first is the package. The other name, and every module below it, then stands
for the same modules: a method that is registered under one is known under both.
"""

import importlib
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

NAMES = ("trainers.prompting", "promptedclip")


def share(own: str, version: str) -> None:
    """Let the other names stand for the package that is being imported."""
    for other in NAMES:
        loaded = sys.modules.get(other)
        if loaded not in (None, sys.modules.get(own)):
            folder = Path(str(getattr(loaded, "__file__", other))).parent
            raise _two(own, version, other, folder, getattr(loaded, "__version__", None))
    sys.meta_path.insert(0, _OtherNames(own, version))
    if own == NAMES[1]:
        sys.meta_path.append(_Parent())


class _OtherNames(MetaPathFinder, Loader):
    """Imports `promptedclip.x` as `trainers.prompting.x`, or the other way round."""

    def __init__(self, own: str, version: str):
        self.own, self.version = own, version
        self.others = [name for name in NAMES if name != own]
        self.specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module under another name; raises UserError for another version."""
        for other in self.others:
            if name == other:
                self._check_version(name, path)
            if name == other or name.startswith(f"{other}."):
                return ModuleSpec(name, self, loader_state=self.own + name.removeprefix(other))
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module itself, imported under its own name."""
        module = importlib.import_module(spec.loader_state)
        self.specs[spec.name] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore its own spec, which the import system has just replaced."""
        assert module.__spec__ is not None
        module.__spec__ = self.specs.pop(module.__spec__.name)

    def _check_version(self, name: str, path: Sequence[str] | None) -> None:
        folder = _folder(name, path)
        if folder is None or folder == Path(__file__).resolve().parent:
            return
        file = folder / "__init__.py"
        text = file.read_text("utf-8") if file.is_file() else ""
        match = re.search(r'^__version__ = "(.+)"', text, re.M)
        if not match or match[1] != self.version:
            raise _two(self.own, self.version, name, folder, match and match[1])


def _two(own: str, version: str, name: str, folder: Path, its_version: str | None) -> Exception:
    """Return the error about two copies in one program."""
    from .errors import UserError

    return UserError(
        f"{own} {version} in '{Path(__file__).parent}' cannot be used together with {name} "
        f"{its_version or 'without a version'} in '{folder}': install or copy the same version, or "
        "remove one of the two"
    )


def _folder(name: str, path: Sequence[str] | None) -> Path | None:
    """Return the folder that a package would be imported from; None if there is none."""
    for finder in sys.meta_path:
        find: Any = getattr(finder, "find_spec", None)
        if find is None or isinstance(finder, (_OtherNames, _Parent)):
            continue
        spec = find(name, path)
        if spec is not None:
            return Path(spec.origin).resolve().parent if spec.has_location else None
    return None


class _Parent(MetaPathFinder):
    """Provides an empty `trainers` if there is none, for code that imports `trainers.prompting`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of `trainers`."""
        if name != NAMES[0].partition(".")[0]:
            return None
        return ModuleSpec(name, None, is_package=True)
