"""Loading of plug-ins: modules or files from outside with methods, data sets or Dassl trainers."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .errors import UserError
from .method import METHODS, import_methods
from .record.hashes import OWN, PACKAGE, file_hash, from_anywhere, name_of, package_hash


class Plugin(NamedTuple):
    """An imported plug-in: its folder, the modules before its import, and those that it added."""

    folder: Path
    before: frozenset[str]
    added: frozenset[str]


import_methods()  # whose names a plug-in must not take
package_hash()  # now: a process may live longer than the files that it has imported
_loaded: set[str] = set()
_plugins: list[Plugin] = []
# The functions `extend_cfg` of plug-ins with trainers of Dassl: each adds their keys to a cfg.
extenders: list[Callable[[Any], object]] = []


def load_plugins(names: Iterable[str]) -> None:
    """Import modules or `.py` files not imported before, and print to stderr what they register."""
    for name in names:
        place = from_anywhere(name)
        if place in _loaded:
            continue
        before, trainers, modules = set(METHODS), _trainers(), frozenset(sys.modules)
        sets = _datasets()
        try:
            module = _import(name)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"The plug-in '{name}' does not import ({type(error).__name__}: "
                f"{' '.join(str(error).split())}{_line(error)}): correct it, or name another with "
                "--plugin"
            ) from error
        registered = METHODS.keys() - before
        registered |= {n for n, method in METHODS.items() if method.__module__ == module}
        if own := _trainers() - trainers:
            if twice := sorted(own & METHODS.keys()):
                raise UserError(
                    f"The plug-in '{name}' registers a trainer '{twice[0]}', but that is a method "
                    "of this project: rename the class"
                )
            registered |= own
            extend = getattr(sys.modules[module], "extend_cfg", None)
            if extend and not extend.__module__.startswith(f"{__package__}."):
                extenders.append(extend)
        registered |= {n for n, of in _datasets().items() if n not in sets or of == module}
        if not registered:
            raise UserError(
                f"The plug-in '{name}' registers no method and no data set: put `@register` of "
                "`trainers.prompting.method` above its class, or Dassl's "
                "`@TRAINER_REGISTRY.register()` or `@DATASET_REGISTRY.register()` above a trainer "
                "or a data set"
            )
        _loaded.add(place)
        folder = Path(sys.modules[module].__file__ or name).resolve().parent
        _plugins.append(Plugin(folder, modules, frozenset(sys.modules) - modules | {module}))
        print(f"Plug-in '{name}': {', '.join(sorted(registered))}", file=sys.stderr)


def code_of(kind: type) -> dict[str, str]:
    """Return the hashes of the code of a method or trainer, by file (`record.hashes`).

    They are of this package as a whole, of the files of other classes that it inherits from, and of
    those that its plug-ins have imported from below their folders; installed packages do not count.
    """
    own = {cls.__module__ for cls in kind.__mro__}
    ours = [plugin for plugin in _plugins if own & plugin.added]
    files = {path for name in own if (path := _file(name))}
    for plugin in ours:
        others = frozenset[str]().union(*(other.added for other in _plugins if other is not plugin))
        added = map(_file, sys.modules.keys() - plugin.before - others | plugin.added)
        files |= {path for path in added if path and path.is_relative_to(plugin.folder)}
    folders = [plugin.folder for plugin in ours]
    return {OWN: package_hash()} | {name_of(path, folders): file_hash(path) for path in files}


def _file(name: str) -> Path | None:
    """Return the Python file of a module; None for Python, Dassl, this package, or installed."""
    path = getattr(sys.modules.get(name), "__file__", None) or ""
    if name.partition(".")[0] in {*sys.stdlib_module_names, "dassl"} or not path.endswith(".py"):
        return None
    file = Path(path).resolve()
    installed = {"site-packages", "dist-packages"} & {*file.parts}
    return None if installed or file.is_relative_to(PACKAGE) else file


def _trainers() -> set[str]:
    """Return the names in Dassl's registry of trainers; none if Dassl has not been imported."""
    engine = sys.modules.get("dassl.engine")
    return set(engine.TRAINER_REGISTRY.registered_names()) if engine else set()


def _datasets() -> dict[str, str]:
    """Return the modules of the data sets in Dassl's registry, without those of a checkout."""
    data = sys.modules.get("dassl.data.datasets")
    if data is None:
        return {}
    names = data.DATASET_REGISTRY.registered_names()
    modules = {name: data.DATASET_REGISTRY.get(name).__module__ for name in names}
    return {name: of for name, of in modules.items() if of.partition(".")[0] != "datasets"}


def _line(error: BaseException) -> str:
    """Return the file and line of a plug-in where an error arose; empty if it has none.

    That is the last line in the folder of the plug-in's own file.
    """
    around = (__file__, importlib.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in around and not frame.filename.startswith("<frozen ")
    ]
    folder = os.path.join(os.path.dirname(frames[0].filename), "") if frames else ""
    own = [frame for frame in frames if frame.filename.startswith(folder)]
    return f", in line {own[-1].lineno} of '{own[-1].filename}'" if own else ""


def _import(name: str) -> str:
    """Import a module or a file, and return the module's name."""
    if not name.endswith(".py"):
        return importlib.import_module(name).__name__
    path = Path(name)
    if not os.path.isfile(path):
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
