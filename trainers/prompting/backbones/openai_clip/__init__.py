"""The installed OpenAI package `clip`, imported under another name.

A checkout may contain an edited package `clip`, which `import clip` would find first. So the search
path of this package is the installed folder, and its modules are imported from here
(`from .openai_clip import clip, model`). `sys.modules["clip"]` is neither used nor changed.
"""

import importlib
import sys
import types
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import packaging.version

from ...errors import UserError

DISTRIBUTIONS = ("clip-anytorch", "clip", "openai-clip")  # clip: from OpenAI's repository
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def installed_folder() -> Path:
    """Return the folder of OpenAI's package in the site-packages.

    Raises:
        UserError: the package is not installed.
    """
    for name in DISTRIBUTIONS:
        try:
            folder = Path(str(distribution(name).locate_file("clip")))
        except PackageNotFoundError:
            continue
        if (folder / VOCABULARY).is_file():
            return folder
    raise UserError("OpenAI's CLIP package is not installed: run `pip install clip-anytorch`")


@contextmanager
def stand_in_for_pkg_resources():
    """Make `from pkg_resources import packaging` work, which recent setuptools do not support."""
    name = "pkg_resources"
    before = sys.modules.get(name)
    stand_in = types.ModuleType(name)
    setattr(stand_in, "packaging", packaging)  # noqa: B010
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


__path__.append(str(installed_folder()))
with stand_in_for_pkg_resources():
    clip = importlib.import_module(".clip", __name__)
model = importlib.import_module(".model", __name__)
