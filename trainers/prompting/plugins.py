"""Loading of plug-ins: modules or files from outside the repository that register methods."""

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from . import methods  # noqa: F401 (registers their names, which a plug-in must not take)
from .errors import UserError
from .method import METHODS

_loaded: set[str] = set()


def load_plugins(names: Iterable[str]) -> None:
    """Import plug-ins that were not imported before, and print their methods to stderr.

    Args:
        names: importable modules, or `.py` files.

    Raises:
        UserError: a plug-in does not import, or registers no method or a name that is taken.
    """
    for name in names:
        place = os.path.abspath(name) if name.endswith(".py") else name
        if place in _loaded:
            continue
        before = set(METHODS)
        try:
            module = _import(name)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(
                f"The plug-in '{name}' does not import ({type(error).__name__}: "
                f"{' '.join(str(error).split())}): correct it, or name another with --plugin"
            ) from error
        found = METHODS.keys() - before
        found |= {n for n, method in METHODS.items() if method.__module__ == module}
        if not found:
            raise UserError(
                f"The plug-in '{name}' registers no method: put `@register` of "
                "`trainers.prompting.method` above its class"
            )
        _loaded.add(place)
        print(f"Plug-in '{name}': {', '.join(sorted(found))}", file=sys.stderr)


def _import(name: str) -> str:
    """Import a module or a file, and return the module's name."""
    if not name.endswith(".py"):
        return importlib.import_module(name).__name__
    path = Path(name)
    if not path.is_file():
        raise UserError(f"There is no plug-in file '{name}': check the path after --plugin")
    if path.stem in sys.modules:
        raise UserError(
            f"The plug-in file '{name}' has the name of a module that is already loaded: rename it"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as for an import by name
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[path.stem]
        raise
    return path.stem
