"""The source of a method by digests of its files, and the folders of runs of another source.

A digest is of the syntax tree without docstrings, so that comments and layout do not count.
Needs no PyTorch.
"""

import ast
import functools
import hashlib
import importlib.util
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
OWN = "trainers/prompting/"  # begins the names of the package's files, wherever it is installed
ROOT = PACKAGE.parents[1]  # of the repository
BEGUN = "begun.json"  # in the folder of a training: the source that it was begun with
WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def digest(path: Path) -> str:
    """Return the digest of a Python file; empty if it cannot be read or parsed."""
    try:
        return _digest_of(path, path.stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return ""


@functools.cache
def _digest_of(path: Path, _changed: int) -> str:
    return _digest(path.read_bytes())


def _digest(code: bytes) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, WITH_DOCSTRINGS) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(_text(tree).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _text(node: object) -> str:
    """Return a syntax tree as text: `ast.dump`, but the same in every version of Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (
        f"{key}={_text(value)}" for key, value in ast.iter_fields(node) if value not in (None, [])
    )
    return f"{type(node).__name__}({','.join(fields)})"


def name_of(path: Path, folders: Iterable[Path]) -> str:
    """Return the name of a file in records: relative to the package, a plug-in's folder or ROOT."""
    if path.is_relative_to(PACKAGE):
        return OWN + path.relative_to(PACKAGE).as_posix()
    for folder in (*folders, ROOT):
        if path.is_relative_to(folder):
            return path.relative_to(folder).as_posix()
    return str(path)


def edited_files(source: object, plugins: Sequence[str], commit: object = "") -> list[str]:
    """Return the names of the files that are not as they were; none if no digests are known.

    Digests are by name; the plug-ins of the run may have moved. A file of this package is as it was
    if the present one is that of the commit, which ends with `+` if it had changes.
    """
    if not isinstance(source, Mapping):
        return []
    names = []
    for name, then in source.items():
        path = _find(name, plugins)
        now = digest(path)
        same = now == then or (
            now and name.startswith(OWN) and now == _committed_digest(path, commit)
        )
        if not same:
            names.append(name)
    return names


def digests(names: Iterable[str], plugins: Sequence[str]) -> dict[str, str]:
    """Return the present digests of files by their names in a record."""
    return {name: digest(_find(name, plugins)) for name in names}


def _find(name: str, plugins: Iterable[str]) -> Path:
    """Return the path of a file by its name in a record; it may not exist."""
    if name.startswith(OWN):
        return PACKAGE / name.removeprefix(OWN)
    folders = [*filter(None, map(plugin_folder, plugins)), ROOT]
    paths = [folder / name for folder in folders]
    return next(filter(os.path.isfile, paths), paths[0])


def _committed_digest(path: Path, commit: object) -> str:
    """Return the digest of a file at a commit; empty if it is not known."""
    if not isinstance(commit, str) or not commit.isalnum():
        return ""
    command = ["git", "-C", str(path.parent), "show", f"{commit}:./{path.name}"]
    try:
        return _digest(subprocess.run(command, capture_output=True, timeout=10, check=True).stdout)
    except (OSError, subprocess.SubprocessError, SyntaxError, ValueError):
        return ""


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


def other_source(folder: Path, files: Iterable[str]) -> UserError:
    """Return the error about a run of another source, with both ways out."""
    return UserError(
        f"'{folder}' holds a run of other code ({', '.join(files)} has been edited since): add "
        "--redo to rename that folder and do the run anew, or --accept-edited to keep it, which "
        "tables then say"
    )


def set_aside(folder: Path) -> Path:
    """Rename a run folder to FOLDER.old, FOLDER.old2, ...; return the new path; raises OSError."""
    number = 1
    while (new := folder.with_name(f"{folder.name}.old{number if number > 1 else ''}")).exists():
        number += 1
    return folder.rename(new)
