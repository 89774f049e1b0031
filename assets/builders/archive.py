"""Build the archive of the embedded benchmark from public npm packages.

    python -m assets.builders.archive --packages FOLDER --output assets/emoji.zip

FOLDER holds the packages as `npm pack` writes them; missing ones are downloaded. Needs npm and
`pip install resvg-py`. The same packages and library versions give the same bytes.

The archive holds `images/<style>/<code point>.webp` (64x64, on white), one split file per data set
in the public format, and the licences.
"""

import argparse
import io
import json
import zipfile
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy.ndimage import uniform_filter1d
from tqdm import tqdm

from trainers.prompting.storage.files import write_whole

from .motifs import EVALUATED, emoji_set, read_emoji, split_emoji

STAMP = (2020, 1, 1, 0, 0, 0)  # date of every file in the zip, so that its bytes never change
TEXTS = ("ATTRIBUTION.txt", "LICENSE-MIT.txt")  # in assets/
# data set -> its style; all have the same classes and the same motifs in each part
DATASETS = {
    "emoji": "openmoji",
    "emoji_blur": "openmoji_blur",
    "emoji_fog": "openmoji_fog",
    "emoji_hue": "openmoji_hue",
    "emoji_dither": "fluent_dither",
    "emoji_motion": "fluent_motion",
    "emoji_night": "fluent_night",
    "emoji_pixels": "fluent_pixels",
}


def pixels(image):
    """Return a picture in 10x10 large pixels."""
    return image.resize((10, 10), Image.Resampling.BOX).resize(image.size, Image.Resampling.NEAREST)


def night(image):
    """Return a picture with inverted brightness and unchanged hues."""
    brightness, blue, red = image.convert("YCbCr").split()
    return Image.merge("YCbCr", (ImageOps.invert(brightness), blue, red)).convert("RGB")


def other_hues(image):
    """Return a picture with its hues turned by half a circle."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point(lambda angle: (angle + 128) % 256)
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def fog(image):
    """Return a picture blended with three quarters of grey."""
    return Image.blend(image, Image.new("RGB", image.size, (150, 155, 165)), 0.75)


def dither(image):
    """Return a picture in dots of black, white and the six saturated colours."""
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for color in product((0, 255), repeat=3) for level in color])
    return image.quantize(dither=Image.Dither.FLOYDSTEINBERG, palette=palette).convert("RGB")


def blur(image):
    """Return a picture out of focus."""
    return image.filter(ImageFilter.GaussianBlur(3.5))


def motion(image):
    """Return a picture with a horizontal motion blur of 15 pixels."""
    mean = uniform_filter1d(np.asarray(image, float), 15, axis=1, mode="nearest")
    return Image.fromarray(mean.round().astype(np.uint8))


SHIFTS = {  # style -> the style it is made from, and how
    "openmoji_blur": ("openmoji", blur),
    "openmoji_fog": ("openmoji", fog),
    "openmoji_hue": ("openmoji", other_hues),
    "fluent_dither": ("fluent_3d", dither),
    "fluent_motion": ("fluent_3d", motion),
    "fluent_night": ("fluent_3d", night),
    "fluent_pixels": ("fluent_3d", pixels),
}


def on_white(image):
    """Return an RGBA picture on white."""
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def draw_styles(folder, emoji):
    """Return {style: {code: RGB image}} of every style in the archive."""
    images = {}
    for style in EVALUATED:
        pictures = emoji_set(folder, style, emoji)
        images[style] = {key: on_white(image) for key, image in pictures.items()}
        print(f"{style}: {len(pictures)} of {len(emoji)} emoji", flush=True)
    for style, (source, change) in SHIFTS.items():
        images[style] = {key: change(image) for key, image in images[source].items()}
    return images


def make_splits(emoji, images):
    """Return {data set: split in the public format}; image paths are relative to `images/`."""
    part_of, names = split_emoji(emoji)
    # Base classes are the first half of the labels. Neighbours in the alphabet are similar (six
    # classes of persons), so they alternate: both halves have animals, persons, food and things.
    label = {name: i for i, name in enumerate(names[::2] + names[1::2])}
    splits: dict[str, dict[str, list]] = {}
    for dataset, style in DATASETS.items():
        splits[dataset] = {"train": [], "val": [], "test": []}
        for item in emoji:
            name, key = item["subgroup"], item["code"]
            if name in label and key in images[style]:
                row = [f"{style}/{key}.webp", label[name], name]
                splits[dataset][part_of[key]].append(row)
    animals = [item for item in emoji if item["subgroup"].startswith("animal ")]
    food = [item for item in emoji if item["group"] == "food-drink"]
    for dataset, members in (("emoji_animals", animals), ("emoji_food", food)):
        splits[dataset] = {
            "train": one_class_each(members, images, ["fluent_3d", "emojione"]),
            "val": [],
            "test": one_class_each(members, images, ["openmoji"]),
        }
    return splits


def one_class_each(members, images, styles):
    """Return rows of a split file in which every emoji is a class."""
    return [
        [f"{style}/{item['code']}.webp", label, item["name"]]
        for style in styles
        for label, item in enumerate(sorted(members, key=lambda item: item["name"]))
        if item["code"] in images[style]
    ]


def encode(image):
    """Return an RGB image as WebP bytes, lossless if that is smaller, as for few colours."""
    buffers = []
    for options in ({"quality": 90}, {"lossless": True, "quality": 80}):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", method=6, **options)
        buffers.append(buffer.getvalue())
    return min(buffers, key=len)


def write_archive(path, files):
    """Write {name: bytes or str} as a zip file whose bytes depend only on the content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, STAMP)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix; the default depends on the operating system
            is_text = isinstance(files[name], str)
            info.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            archive.writestr(info, files[name])
    write_whole(path, buffer.getvalue())


def main():
    """Run the command line: build the archive."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder of the npm packages")
    parser.add_argument("--output", type=Path, default="assets/emoji.zip", help="the archive")
    args = parser.parse_args()
    args.packages.mkdir(parents=True, exist_ok=True)
    emoji = read_emoji(args.packages)
    images = draw_styles(args.packages, emoji)
    splits = make_splits(emoji, images)
    files = {name: Path(__file__).parents[1].joinpath(name).read_text("utf-8") for name in TEXTS}
    for name, split in splits.items():
        files[f"split_{name}.json"] = json.dumps(split, ensure_ascii=False)
        classes = len({label for part in split.values() for _, label, _ in part})
        print(f"{name}: {classes} classes,", {part: len(rows) for part, rows in split.items()})
    paths = {row[0] for split in splits.values() for rows in split.values() for row in rows}
    for path in tqdm(sorted(paths), "encoding", leave=False):
        style, name = path.split("/")
        files[f"images/{path}"] = encode(images[style][Path(name).stem])
    write_archive(args.output, files)
    print(f"{args.output}: {len(paths)} images, {args.output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
