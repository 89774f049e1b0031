"""The check of a plug-in's data set: every process divides its images alike.

`python -m trainers.prompting.conformance.data_sets NAME ROOT PLUGIN ...` prints a hash of a split.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

from ..errors import need
from ..plugins import load_plugins

PRINT_SET = "import sys; print(ascii([*set(sys.argv[1:])]))"


def check_split(cfg: CfgNode) -> str:
    """Another process, with other hashes of texts, divides the images of a data set alike.

    Finds classes that are numbered in the order of a set. Returns a word for the stamp.
    """
    name = cfg.DATASET.NAME
    parts = look(name, cfg.DATASET.ROOT)
    seed = other_seed(item.classname for part in parts for item in part)
    path = os.pathsep.join(filter(None, sys.path))
    words = [name, cfg.DATASET.ROOT, *cfg.TRAINER.PLUGINS]
    done = run_python(seed, ["-m", __name__, *words], PYTHONPATH=path)
    if done.returncode:
        return "not read"  # the run's own error says more
    need(
        done.stdout.split()[-1] == split_hash(parts),
        f"{name} divides its images or numbers its classes otherwise in another process, so that "
        "runs cannot be compared: sort what comes from a set, a folder or a dict of such, and draw "
        "from random.Random(0)",
    )
    return "alike"


def other_seed(names: Iterable[str]) -> int:
    """Return a PYTHONHASHSEED under which a set of these names has another order than here.

    With any other seed, a set of two names would have the same order every second time.
    """
    few = sorted({*map(str, names)})[:100]  # a command line holds no more than it needs
    for seed in range(1, 21):  # a set of one name has one order
        if run_python(seed, ["-S", "-c", PRINT_SET, *few]).stdout.strip() != ascii([*set(few)]):
            break
    return seed


def run_python(seed: int, words: Sequence[str], **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a seed for hashes of texts; `more` are further environment variables."""
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONHASHSEED": str(seed), **more},
    )  # fmt: skip


def look(name: str, root: str) -> Sequence[Sequence[Any]]:
    """Return the three lists of images of a data set."""
    with redirect_stdout(sys.stderr):
        _, parts = DATASET_REGISTRY.get(name).look(root)
    return parts


def split_hash(parts: Sequence[Sequence[Any]]) -> str:
    """Return a hash of images, with their parts, labels and class names."""
    lines = [
        f"{number}\0{item.impath}\0{item.label}\0{item.classname}"
        for number, part in enumerate(parts)
        for item in part
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def main(argv: Sequence[str]) -> None:
    """Print the hash of the split of a data set."""
    name, root, *plugins = argv
    load_plugins(plugins)
    print(split_hash(look(name, root)))


if __name__ == "__main__":
    main(sys.argv[1:])
