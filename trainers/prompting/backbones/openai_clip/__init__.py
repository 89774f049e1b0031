"""The installed OpenAI package `clip`, imported under another name.

A checkout may contain an edited package `clip`, which `import clip` would find first. So the search
path of this package is the installed folder, and its modules are imported from here
(`from .openai_clip import clip, model`). `sys.modules["clip"]` is neither used nor changed.
"""

import importlib
import sys
import types
from collections.abc import Callable
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import packaging.version

from ...errors import UserError

DISTRIBUTIONS = ("clip-anytorch", "clip", "openai-clip")  # clip: from OpenAI's repository
VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


def installed_folder() -> Path:
    """Return the folder of OpenAI's installed package; raises UserError if there is none."""
    for name in DISTRIBUTIONS:
        try:
            folder = Path(str(distribution(name).locate_file("clip")))
        except PackageNotFoundError:
            continue
        if (folder / VOCABULARY).is_file():
            return folder
    raise UserError("OpenAI's CLIP package is not installed: run `pip install clip-anytorch`")


@contextmanager
def stand_in(name: str, **content: object):
    """Put a module with this content in the place of an imported or a missing one."""
    before = sys.modules.get(name)
    sys.modules[name] = module = types.ModuleType(name)
    vars(module).update(content)
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def imported_when_called(module: str, name: str) -> Callable[..., Any]:
    """Return a stand-in for a class, whose module is imported when an object is made."""
    return lambda *args, **more: getattr(importlib.import_module(module), name)(*args, **more)


TRANSFORMS = "torchvision.transforms"  # slow to import, and not used here
names = "Compose", "Resize", "CenterCrop", "ToTensor", "Normalize"
later = {name: imported_when_called(TRANSFORMS, name) for name in names}
__path__.append(str(installed_folder()))
# `from pkg_resources import packaging` fails with recent setuptools
with stand_in("pkg_resources", packaging=packaging), stand_in(TRANSFORMS, **later):
    clip = importlib.import_module(".clip", __name__)
model = importlib.import_module(".model", __name__)
