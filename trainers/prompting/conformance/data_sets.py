"""The check of a plug-in's data set: every process divides its images alike.

`python -m trainers.prompting.conformance.data_sets NAME ROOT PLUGIN ...` prints a hash of a split.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any

from dassl.data.datasets import DATASET_REGISTRY
from yacs.config import CfgNode

from ..errors import need
from ..plugins import load_plugins

SEEDS = "1", "2"  # of the order of sets of texts; a process of 1 is compared with one of 2


def check_split(cfg: CfgNode) -> str:
    """Another process, with other hashes of texts, divides the images of a data set alike.

    Finds classes that are numbered in the order of a set. Returns a word for the stamp.
    """
    name = cfg.DATASET.NAME
    words = [name, cfg.DATASET.ROOT, *cfg.TRAINER.PLUGINS]
    other = SEEDS[os.environ.get("PYTHONHASHSEED") == SEEDS[0]]
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-m", __name__, *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": path},
    )  # fmt: skip
    if done.returncode:
        return "not read"  # the run's own error says more
    need(
        done.stdout.split()[-1] == split_hash(DATASET_REGISTRY.get(name), cfg.DATASET.ROOT),
        f"{name} divides its images or numbers its classes otherwise in another process, so that "
        "runs cannot be compared: sort what comes from a set, a folder or a dict of such, and draw "
        "from random.Random(0)",
    )
    return "alike"


def split_hash(kind: Any, root: str) -> str:
    """Return a hash of the images of a data set, with their parts, labels and class names."""
    with redirect_stdout(sys.stderr):
        _, parts = kind.look(root)
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
    print(split_hash(DATASET_REGISTRY.get(name), root))


if __name__ == "__main__":
    main(sys.argv[1:])
