"""Build the archive of the embedded benchmark from public npm packages.

    python -m assets.builders.archive --packages FOLDER --output assets/emoji.zip

FOLDER holds the packages as `npm pack` writes them; those that are missing are fetched. Needs npm
and `pip install resvg-py`. The same packages and library versions give the same bytes.

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
from tqdm import tqdm

from trainers.prompting.storage.files import write_whole

from .motifs import emoji_set, read_emoji, split_emoji

STAMP = (2020, 1, 1, 0, 0, 0)  # every file in the zip: its bytes must not depend on the clock
PARTS = ("train", "val", "test")
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

ATTRIBUTION = """\
The emoji images in this archive, resized to 64x64 pixels, drawn on white and re-encoded.

images/fluent_3d       Fluent Emoji (3D), (c) Microsoft Corporation. MIT, see LICENSE-MIT.txt.
                       https://github.com/microsoft/fluentui-emoji, from @lobehub/fluent-emoji-3d
images/emojione        EmojiOne 2.3, emoji art supplied by EmojiOne, kept by the EmojiTwo project.
                       CC BY 4.0, https://creativecommons.org/licenses/by/4.0/
                       https://github.com/EmojiTwo/emojitwo, from @iconify-json/emojione
images/fluent_dither   Fluent Emoji (3D) as above, in dots of eight colours.
images/fluent_motion   The same, blurred by motion.
images/fluent_night    The same with inverted brightness.
images/fluent_pixels   The same in 10x10 pixels.
images/openmoji        OpenMoji, the open-source emoji and icon project (https://openmoji.org).
                       CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/
                       The resized images of this folder stay under CC BY-SA 4.0.
images/openmoji_blur   OpenMoji as above, out of focus. CC BY-SA 4.0.
images/openmoji_fog    The same behind a grey veil. CC BY-SA 4.0.
images/openmoji_hue    The same with hues turned by half a circle. CC BY-SA 4.0.
split_*.json           Emoji names and subgroups: Unicode CLDR (Unicode License V3,
                       https://www.unicode.org/license.txt) by way of openmoji.
"""
MIT = """\
MIT License

Copyright (c) Microsoft Corporation.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE
"""


def pixels(image):
    """A picture in 10x10 large pixels."""
    return image.resize((10, 10), Image.BOX).resize(image.size, Image.NEAREST)


def night(image):
    """A picture with inverted brightness and its own hues."""
    brightness, blue, red = image.convert("YCbCr").split()
    return Image.merge("YCbCr", (ImageOps.invert(brightness), blue, red)).convert("RGB")


def other_hues(image):
    """A picture whose hues are turned by half a circle."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point(lambda angle: (angle + 128) % 256)
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def fog(image):
    """A picture of which a quarter shows through a grey veil."""
    return Image.blend(image, Image.new("RGB", image.size, (150, 155, 165)), 0.75)


def dither(image):
    """A picture in dots of black, white and the six full colours between them."""
    palette = Image.new("P", (1, 1))
    palette.putpalette([level for color in product((0, 255), repeat=3) for level in color])
    return image.quantize(dither=Image.Dither.FLOYDSTEINBERG, palette=palette).convert("RGB")


def blur(image):
    """A picture out of focus."""
    return image.filter(ImageFilter.GaussianBlur(3.5))


def motion(image):
    """A picture that moved sideways by 15 of its pixels while it was taken."""
    padded = np.pad(np.asarray(image, float), ((0, 0), (7, 7), (0, 0)), "edge")
    mean = np.lib.stride_tricks.sliding_window_view(padded, 15, axis=1).mean(axis=-1)
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
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    return flat


def draw_styles(folder, emoji):
    """{style: {code: RGB image}} of every style of the archive."""
    images = {}
    for style in ("openmoji", "fluent_3d", "emojione"):
        pictures = emoji_set(folder, style, emoji)
        images[style] = {key: on_white(image) for key, image in pictures.items()}
        print(f"{style}: {len(pictures)} of {len(emoji)} emoji", flush=True)
    for style, (source, change) in SHIFTS.items():
        images[style] = {key: change(image) for key, image in images[source].items()}
    return images


def make_splits(emoji, images):
    """{data set: split in the public format}; image paths are relative to `images/`."""
    part_of, names = split_emoji(emoji)
    # Base classes are the first half. Neighbours in the alphabet are kin (six classes of
    # persons), so they take turns: both halves have animals, persons, food and things.
    label = {name: i for i, name in enumerate(names[::2] + names[1::2])}
    splits = {dataset: {part: [] for part in PARTS} for dataset in DATASETS}
    for (dataset, style), item in product(DATASETS.items(), emoji):
        name, key = item["subgroup"], item["code"]
        if name in label and key in images[style]:
            row = [f"{style}/{key}.webp", label[name], name]
            splits[dataset][part_of[key]].append(row)
    for dataset, is_member in (
        ("emoji_animals", lambda item: item["subgroup"].startswith("animal ")),
        ("emoji_food", lambda item: item["group"] == "food-drink"),
    ):
        members = sorted(filter(is_member, emoji), key=lambda item: item["name"])

        def one_class_each(styles, members=members):
            return [
                [f"{style}/{item['code']}.webp", i, item["name"]]
                for style in styles
                for i, item in enumerate(members)
                if item["code"] in images[style]
            ]

        splits[dataset] = {"train": one_class_each(["fluent_3d", "emojione"]), "val": []}
        splits[dataset]["test"] = one_class_each(["openmoji"])
    return splits


def encode(image):
    """WebP bytes of an RGB image; drawings of few colours are smaller without loss."""
    buffers = []
    for options in ({"quality": 90}, {"lossless": True, "quality": 80}):
        buffer = io.BytesIO()
        image.save(buffer, "WEBP", method=6, **options)
        buffers.append(buffer.getvalue())
    return min(buffers, key=len)


def write_archive(path, files):
    """Write {name: bytes or str} as a zip whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, STAMP)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # the default depends on the operating system
            is_text = isinstance(files[name], str)
            info.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            archive.writestr(info, files[name])
    write_whole(path, buffer.getvalue())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder of the npm packages")
    parser.add_argument("--output", type=Path, default="assets/emoji.zip", help="the archive")
    args = parser.parse_args()
    args.packages.mkdir(parents=True, exist_ok=True)
    emoji = read_emoji(args.packages)
    images = draw_styles(args.packages, emoji)
    splits = make_splits(emoji, images)
    files = {"ATTRIBUTION.txt": ATTRIBUTION, "LICENSE-MIT.txt": MIT}
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
