"""Encode the photographs of WHU-RS19 and compare them with the features in assets/.

Rows of these files stand in the order of a directory listing that nobody has kept. So each
photograph is compared with one row of its class: those whose cosines have the largest sum.
"""

from pathlib import Path

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn.functional import normalize

from datasets.files import read_folders
from trainers.prompting.errors import need
from trainers.prompting.images.class_folders import class_names, labelled_folders
from trainers.prompting.storage.features import read_features, read_header

from ..protocols.configs import ROOT
from .zero_shot import Checker

ASSETS = ROOT / "assets"
CLOSE, SHARE = 0.999, 0.99  # a cosine of half precision, and the share of images that exceeds it


def check(folder: Path, backbone: str, limit: int | None) -> int:
    """Print how many photographs of a folder have their row; return 1 if fewer than SHARE."""
    files = {read_header(x)["clip"]: x for x in sorted(ASSETS.glob("whurs19_*.safetensors"))}
    need(backbone in files, f"assets/ has features of {', '.join(files)}, not of '{backbone}'")
    stored, images = read_features(files[backbone]), folder / "images"
    classes = class_names(images, labelled_folders(images)) if images.is_dir() else None
    items = read_folders(images, *classes) if classes else []
    need(
        {item.classname for item in items} == set(stored.classnames),
        f"'{images}' does not have the classes of WHU-RS19: `python -m benchmark download "
        f"{folder.name}` brings its photographs",
    )
    checker = Checker(backbone, limit)
    chosen = checker.some(items)
    labels = torch.tensor([stored.classnames.index(item.classname) for item in chosen])
    found = cosines(checker.features("WHURS19", chosen), labels, stored.image, stored.label)
    share = (found > CLOSE).double().mean()
    print(
        f"{folder.name}: {(found > CLOSE).sum():,} of {len(found):,} photographs have a row of "
        f"their own in '{stored.path}' with a cosine above {CLOSE} (median {found.median():.5f}, "
        f"lowest {found.min():.5f}): encoding with {backbone} in float32 on {checker.device.type} "
        f"{'agrees' if share >= SHARE else f'does not agree, as {SHARE:.0%} should'}"
    )
    return int(share < SHARE)


def cosines(
    z: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor, of: torch.Tensor
) -> torch.Tensor:
    """Return the cosine (n,) of each feature z (n, D) with its row; -1 if its class has too few.

    The features are of the classes `labels` (n,), the `rows` (m, D) of the classes `of` (m,).
    """
    z, rows = (normalize(x.float(), dim=-1) for x in (z, rows))
    found = z.new_full((len(z),), -1.0)
    for label in labels.unique():
        mine = (labels == label).nonzero().flatten()
        near = z[mine] @ rows[of == label].T
        image, row = linear_sum_assignment(near.numpy(), maximize=True)
        found[mine[image]] = near[image, row]
    return found
