"""Encodes a collection with a CLIP, and keeps the features in a file that a later call extends.

Letters: N images, D the width of the features, K classes.
"""

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..backbones import absolute, load_clip, weights_sha256
from ..building.encoding import encode_images, plain_encoder
from ..building.transforms import Plain
from ..encoders.class_text import zero_shot_template
from ..errors import UserError, need
from ..images.image_files import read_single
from ..storage.features import read_features, write_features
from ..teacher import Teacher
from .fits import Space
from .images import Collection

DATASET = "ImageFolder"  # whose sentence the features have
TEMPLATE = zero_shot_template(DATASET)
PART = 512  # images after which the file is written, so that a repeated call continues there


@dataclass(eq=False)
class CollectionFeatures:
    """Features of a collection under a CLIP, and the file that keeps them.

    Attributes:
        name: of the CLIP; file: with its features.
        rows: digest of an image -> its features (D,).
        text: (K, D), of a sentence for each class, or None.
        scale: of the logits.
        unread: digest of an image -> why it cannot be read.
    """

    name: str
    file: Path
    rows: dict[str, torch.Tensor] = field(default_factory=dict)
    text: torch.Tensor | None = None
    scale: float = 1.0
    unread: dict[str, str] = field(default_factory=dict)

    def space(self, collection: Collection) -> Space:
        """Return the features of the images of a collection, all of which were read."""
        assert self.text is not None, "it was encoded"
        images = torch.stack([self.rows[digest] for digest in collection.digests])
        return Space(self.name, images, self.text, self.scale)

    def write(self, collection: Collection) -> None:
        """Write the features of the images of a collection, as far as there are some."""
        once = {digest: i for i, digest in enumerate(collection.digests) if digest in self.rows}
        if not once:
            return
        one = collection.keep([*once.values()])
        space, labels = self.space(one), torch.tensor(one.labels)
        header = {
            "classnames": one.classnames,
            "split": {"train": [*range(len(labels))], "val": [], "test": []},
            "images": one.digests,
            "logit_scale": self.scale,
            "normalised": False,
            "template": TEMPLATE,
            "clip": absolute(self.name),
            "dataset": DATASET,
            "made_of": _made_of(self.name),
        }
        tensors = {"image": space.images, "label": labels, f"text/{TEMPLATE}": space.text}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_features(self.file, tensors, header)


def encode(
    name: str, collection: Collection, folder: Path, device: torch.device, batch: int, most: float
) -> CollectionFeatures:
    """Return the features of a collection under a CLIP; those in its file are not computed again.

    Args:
        name: as `load_clip` takes it.
        collection: the images.
        folder: of the files of features.
        device: for the CLIP.
        batch: images at a time.
        most: seconds that it may take.
    """
    stem = re.sub("[^A-Za-z0-9.@-]+", "-", name).strip("-").removesuffix(".safetensors")
    one = _read_stored(name, folder / f"{stem}.safetensors", collection.classnames)
    paths = dict(zip(collection.digests, collection.paths, strict=True))
    missing = [digest for digest in paths if digest and digest not in one.rows]
    if missing or one.text is None:
        clip_model = load_clip(name).to(device)
        one.scale = float(clip_model.logit_scale.detach().exp())
        one.text = Teacher(clip_model, collection.classnames, [TEMPLATE]).raw.cpu()
        begun, done = time.monotonic(), 0
        for number in _encode_images(one, clip_model, {x: paths[x] for x in missing}, batch):
            done += number
            if done == number < len(missing):
                left = (time.monotonic() - begun) * (len(missing) - done) / done
                need(
                    left <= most,
                    f"{len(missing):,} images would take {duration(left)}, and --budget leaves "
                    + duration(max(0, most)),
                )
                print(f"{name}: {len(missing):,} images in about {duration(left)}")
            if done % PART < number:
                one.write(collection)
    one.write(collection)  # labels may have changed
    return one


def duration(seconds: float) -> str:
    """Return a duration in words.

    Examples:
        >>> duration(40), duration(400)
        ('40 s', '7 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _made_of(name: str) -> str:
    """Return what features are made of: images as their EXIF data say, and the CLIP."""
    return f"upright {weights_sha256(name)}"


def _read_stored(name: str, file: Path, classnames: Sequence[str]) -> CollectionFeatures:
    """Return what a file of features has of a CLIP with these weights; no text of other classes."""
    try:
        features = read_features(file)
    except UserError:  # there is none, or a damaged one
        return CollectionFeatures(name, file)
    if features.made_of != _made_of(name) or features.template != TEMPLATE:
        return CollectionFeatures(name, file)
    rows = dict(zip(features.images, features.image, strict=True))
    text = features.text[TEMPLATE] if features.classnames == list(classnames) else None
    return CollectionFeatures(name, file, rows, text, features.logit_scale)


def _encode_images(
    one: CollectionFeatures, clip_model: Any, paths: Mapping[str, str], size: int
) -> Iterator[int]:
    """Add features of images, given by their digests, and yield the size of each batch after it."""
    method, images = plain_encoder(clip_model)
    transform = Plain(images)

    def read(digest: str) -> torch.Tensor | None:
        try:
            return transform(read_single(paths[digest]))
        except UserError as error:
            one.unread[digest] = str(error)
            return None

    with tqdm(total=len(paths), desc=one.name, unit="image", disable=None) as bar:
        for batch, good, z in encode_images(method, [*paths], read, size):
            one.rows |= dict(zip(good, z, strict=True))
            bar.update(len(batch))
            yield len(batch)
