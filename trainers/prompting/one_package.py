"""One package under two names: `trainers.prompting` in a repository, `promptedclip` installed.

Whichever is imported first is the package. The other name, and every module below it, then stands
for the same modules, whatever version is there: a method that is registered under one is known
under both.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

NAMES = ("trainers.prompting", "promptedclip")


def share(own: str) -> None:
    """Let the other names stand for the package that is being imported."""
    sys.meta_path.insert(0, _OtherNames(own))
    if own == NAMES[1]:
        sys.meta_path.append(_Parent())


class _OtherNames(MetaPathFinder, Loader):
    """Imports `promptedclip.x` as `trainers.prompting.x`, or the other way round."""

    def __init__(self, own: str):
        self.own, self.others = own, [name for name in NAMES if name != own]
        self.specs: dict[str, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a module under another name."""
        for other in self.others:
            if f"{name}.".startswith(f"{other}."):
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


class _Parent(MetaPathFinder):
    """Provides an empty `trainers` if there is none, for code that imports `trainers.prompting`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of `trainers`."""
        if name != NAMES[0].partition(".")[0]:
            return None
        return ModuleSpec(name, None, is_package=True)
