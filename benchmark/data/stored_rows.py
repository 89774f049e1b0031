"""Encode the photographs of WHU-RS19 and compare them with the features in assets/.

Rows of the files stand in the order of a directory listing that nobody has kept, so each photograph
is compared with one row of its class: those whose cosines have the largest sum.

Letters: n images, m rows, D the width of features.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from trainers.prompting.errors import need

from ..protocols.configs import ROOT
from .zero_shot import Checker

if TYPE_CHECKING:
    import torch

    from trainers.prompting.storage.features import Features

NAME = "whurs19-images"
ASSETS = ROOT / "assets"
BACKBONE = "ViT-B/32"  # of the three CLIPs, that with the smallest file
CLOSE, SHARE = 0.999, 0.99  # a cosine of half precision, and how many must exceed it


def check(root: Path, backbone: str | None, limit: int | None) -> int:
    """Print how many photographs below `root` have their row; return 1 if fewer than SHARE."""
    import torch

    from datasets.files import read_folders
    from trainers.prompting.images.class_folders import class_names, labelled_folders
    from trainers.prompting.storage.features import read_features, read_header

    files = {read_header(file)["clip"]: file for file in ASSETS.glob("whurs19_*.safetensors")}
    asked = backbone or BACKBONE
    need(asked in files, f"assets/ has features of {', '.join(sorted(files))}, not of '{asked}'")
    stored = read_features(files[asked])
    images = root / NAME / "images"
    brings = f"`python -m benchmark download {NAME}` brings the right ones"
    need(images.is_dir(), f"there are no photographs in '{images}': {brings}")
    items = read_folders(images, *class_names(images, labelled_folders(images)))
    names = {item.classname for item in items}
    need(
        names == set(stored.classnames),
        f"'{images}' has other classes than '{stored.path}': {brings}",
    )
    checker = Checker(stored.clip, limit)
    chosen = checker.some(items)
    labels = [stored.classnames.index(item.classname) for item in chosen]
    found = cosines(checker.features("WHURS19", chosen), torch.tensor(labels), stored)
    close, agrees = int((found > CLOSE).sum()), bool((found > CLOSE).float().mean() >= SHARE)
    print(
        f"{NAME}: {close:,} of {len(found):,} photographs have a row of their own in "
        f"'{stored.path}' with a cosine above {CLOSE} (median {found.median():.5f}, lowest "
        f"{found.min():.5f}): encoding with {stored.clip} in float32 on {checker.device.type} "
        f"{'agrees' if agrees else f'does not agree, as {SHARE:.0%} should'}"
    )
    return int(not agrees)


def cosines(z: "torch.Tensor", labels: "torch.Tensor", stored: "Features") -> "torch.Tensor":
    """Return the cosine (n,) of each image with its row; -1 where a class has too few rows.

    Args:
        z: (n, D) features of the images.
        labels: (n,) their classes.
        stored: the file with the rows.
    """
    import torch
    import torch.nn.functional as F
    from scipy.optimize import linear_sum_assignment

    z, rows = (F.normalize(x.float(), dim=-1) for x in (z, stored.image))
    found = torch.full((len(z),), -1.0)
    for label in labels.unique():
        mine = (labels == label).nonzero().flatten()
        near = z[mine] @ rows[stored.label == label].T  # (n, m) of this class
        image, row = linear_sum_assignment(near.numpy(), maximize=True)
        found[mine[image]] = near[image, row]
    return found
