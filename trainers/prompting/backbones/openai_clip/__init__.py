"""The installed OpenAI package under a name of our own: a `clip` beside us may be an edited one.

Its modules are imported from here (`from .openai_clip import clip, model`), as this package's
search path is the installed folder. `sys.modules["clip"]` is neither used nor touched.
"""

import importlib
import sys
import types
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import packaging.version

from ...errors import UserError

DISTRIBUTIONS = ("clip-anytorch", "clip", "openai-clip")  # clip: from OpenAI's own repository
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def installed_folder() -> Path:
    """The folder of OpenAI's package in the site-packages.

    Raises:
        UserError: no installed distribution has it.
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
    """Let `from pkg_resources import packaging` work, which current setuptools do not."""
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
