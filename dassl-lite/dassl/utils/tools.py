"""Small helpers: seeds, files, parameters, the environment."""

import json
import os
import os.path as osp
import platform
import random
from importlib.metadata import version

import numpy as np
import PIL
import torch


def set_random_seed(seed):
    """Seed Python, NumPy and PyTorch (all devices) with a whole number below 2**32."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def mkdir_if_missing(dirname):
    """Make a folder and its parents, if missing."""
    os.makedirs(dirname, exist_ok=True)


def check_isfile(fpath):
    """Return True if `fpath` is a file; print a line if it is not."""
    exists = osp.isfile(fpath)
    if not exists:
        print(f"No file found at '{fpath}'")
    return exists


def listdir_nohidden(path, sort=False):
    """Return the names in a folder that do not start with a dot."""
    names = [name for name in os.listdir(path) if not name.startswith(".")]
    return sorted(names) if sort else names


def read_json(fpath):
    """Return the content of a JSON file."""
    with open(fpath, encoding="utf-8") as file:
        return json.load(file)


def write_json(obj, fpath):
    """Write a JSON file; its folder is made if missing."""
    mkdir_if_missing(osp.dirname(fpath) or ".")
    with open(fpath, "w", encoding="utf-8") as file:
        json.dump(obj, file, indent=4, separators=(",", ": "))


def tolist_if_not(x):
    """Return `x` if it is a list, else `[x]`."""
    return x if isinstance(x, list) else [x]


def count_num_param(model=None, params=None):
    """Return the number of parameters in a model, or in a list of parameters or groups."""
    if model is not None:
        return sum(p.numel() for p in model.parameters())
    groups = [p["params"] if isinstance(p, dict) else [p] for p in params or []]
    return sum(p.numel() for group in groups for p in group)


def collect_env_info():
    """Return the versions of the software and the devices, one in a line."""
    lines = [
        f"Python: {platform.python_version()} on {platform.platform()}",
        f"PyTorch: {torch.__version__}, torchvision {version('torchvision')}",
        f"NumPy: {np.__version__}, Pillow {PIL.__version__}",
        f"CPU threads: {torch.get_num_threads()}",
    ]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        lines.append(f"CUDA: {torch.version.cuda}, {', '.join(names)}")
    return "\n".join(lines)
