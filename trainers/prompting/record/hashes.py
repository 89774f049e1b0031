"""Hashes of the code that makes a run: of this package, and of each file of a plug-in.

They are of bytes, so comments count, but ends of lines do not. Nothing is executed. Needs no
PyTorch.
"""

import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parents[1]  # of the repository
OWN = "trainers/prompting"  # the package's name in records, wherever it is installed
IN_WHEEL = "dassl_lite/"  # of Dassl; in a checkout it is not in the package's folder


def file_hash(path: Path) -> str:
    """Return the hash of a Python file; empty if there is none."""
    if path.suffix != ".py" or not path.is_file():
        return ""
    return _hash(path.read_bytes().replace(b"\r\n", b"\n"))


@functools.cache
def package_hash() -> str:
    """Return the hash of all Python files of this package.

    They are as when it was first called: `plugins` calls it. It is the same in a checkout, in the
    installed package and in a copy.
    """
    names = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
    own = (name for name in names if not name.startswith((IN_WHEEL, ".")) and "/." not in name)
    return _hash("\n".join(f"{name} {file_hash(PACKAGE / name)}" for name in own).encode())


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def name_of(path: Path, folders: Iterable[Path]) -> str:
    """Return the name of a file in records: relative to a plug-in's folder or ROOT."""
    for folder in (*folders, ROOT):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return str(path)


def edited_files(code: Mapping[str, str] | None, plugins: Iterable[str] = ()) -> list[str]:
    """Return those of the hashes by name (`plugins.code_of`) that present files do not have.

    The plug-ins of the run may have moved. Where none of their folders is on this machine, their
    files are not compared.
    """
    code = code or {}
    folders = [folder for name in plugins if (folder := plugin_folder(name)) and folder.is_dir()]
    now = {name: _present_hash(name, folders) for name in code}
    return [name for name, then in code.items() if now[name] not in (then, None)]


def _present_hash(name: str, folders: list[Path]) -> str | None:
    """Return the hash of what has a name in records; None if there is no folder to look in."""
    if name == OWN:
        return package_hash()
    paths = [folder / name for folder in (*folders, ROOT)]
    path = next(filter(os.path.isfile, paths), paths[0])
    return file_hash(path) if folders or path.is_file() else None


def from_anywhere(name: str) -> str:
    """Return the name of a plug-in as it is found from any folder: of a file, its absolute path."""
    return os.path.abspath(os.path.expanduser(name)) if name.endswith(".py") else name


def plugin_folder(name: str) -> Path | None:
    """Return the folder that holds a plug-in (a Python file or a module); None if it is not found.

    A module is located without importing it; only the packages around it are imported.
    """
    if name.endswith(".py"):
        return Path(name).absolute().parent
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # train.py reports the error
        return None
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).absolute().parent
