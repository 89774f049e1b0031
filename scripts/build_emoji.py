"""Build the emoji benchmark from public npm packages: the shipped archive and the images that the
embedded CLIP is pre-trained on.

It is long because it is one recipe, from packages to archive, that nothing else shares.

    python scripts/build_emoji.py --packages FOLDER --out assets/emoji.zip --pretrain-out emoji.npz

FOLDER holds the packages of `PACKAGES` as `npm pack` writes them; those that are missing are
fetched with npm. Needs `pip install cairosvg` (it draws the SVG styles; nothing else in this
repository does). The same packages and library versions give the same bytes.

The archive holds `images/<style>/<code point>.webp` (64x64, on white), one split file per data set
in the public format, and the licences. The pre-training file is an npz with `images`
(N, 64, 64, 4) uint8, `emoji` (N,) and `style` (N,) indices, and `meta`, a JSON string.
"""

import argparse
import csv
import io
import json
import random
import re
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

PACKAGES = {
    "emoji-datasource": "16.0.0",
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "@iconify-json/fluent-emoji-flat": "1.2.6",
    "@iconify-json/noto-v1": "1.2.5",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/emojione": "1.2.3",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "openmoji": "17.0.0",
}
PRETRAIN_STYLES = ["noto", "twemoji", "fluent_flat", "noto_v1", "fxemoji"]
DOWNSTREAM_STYLES = ["openmoji", "openmoji_black", "fluent_3d", "emojione"]
SIZE = 64
MIN_CLASS = 16  # emoji per class of the `emoji` data set
SEED = 1
SKIPPED_GROUPS = {"extras-openmoji", "extras-unicode", "component", "flags"}
SKIPPED_SUBGROUPS = {"keycap", "alphanum", "family"}
STAMP = (2020, 1, 1, 0, 0, 0)  # every file in the zip: its bytes must not depend on the clock

ATTRIBUTION = """\
The emoji images in this archive, resized to 64x64 pixels, drawn on white and re-encoded.

images/fluent_3d       Fluent Emoji (3D), (c) Microsoft Corporation. MIT, see LICENSE-MIT.txt.
                       https://github.com/microsoft/fluentui-emoji, from @lobehub/fluent-emoji-3d
images/emojione        EmojiOne 2.3, emoji art supplied by EmojiOne, kept by the EmojiTwo project.
                       CC BY 4.0, https://creativecommons.org/licenses/by/4.0/
                       https://github.com/EmojiTwo/emojitwo, from @iconify-json/emojione
images/openmoji        OpenMoji, the open-source emoji and icon project (https://openmoji.org).
images/openmoji_black  CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/
                       The resized images of these two folders stay under CC BY-SA 4.0.
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


def open_package(folder, name):
    """The tar file of an npm package, fetched with `npm pack` when it is not in `folder`."""
    path = folder / f"{name.lstrip('@').replace('/', '-')}-{PACKAGES[name]}.tgz"
    if not path.exists():
        command = ["npm", "pack", "--pack-destination", str(folder), f"{name}@{PACKAGES[name]}"]
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{path.name} is not in {folder} and npm could not fetch it: {error}")
    return tarfile.open(path)


def code(hexcode):
    """A code point sequence without variation selectors, leading zeros and case."""
    parts = (part.lstrip("0") for part in hexcode.lower().split("-"))
    return "-".join(part for part in parts if part != "fe0f")


def slug(text):
    """`Women’s boot` -> `womens-boot`, as icon sets name their files."""
    text = text.lower().replace("’", "").replace("'", "")
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_text).strip("-")


def read_members(tar, folder, suffix):
    """{code: bytes} of the images directly in `folder` of a package."""
    members = {}
    for member in tar:
        path = Path(member.name)
        if path.parent.as_posix() == f"package/{folder}" and path.suffix == suffix:
            members[code(path.stem)] = tar.extractfile(member).read()
    return members


def raster(data):
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    return image.resize((SIZE, SIZE), Image.LANCZOS)


def vector(data):
    import cairosvg  # only the SVG styles need it

    png = cairosvg.svg2png(bytestring=data, output_width=SIZE, output_height=SIZE)
    return Image.open(io.BytesIO(png)).convert("RGBA")


def read_icons(tar, emoji, by_short_name):
    """{code: svg bytes} of an iconify set, which knows its icons by name alone.

    Every icon goes to one emoji: better a missing image than a wrong one.
    """
    icons = json.load(tar.extractfile("package/icons.json"))
    names = {name.replace("-", ""): name for name in [*icons.get("aliases", {}), *icons["icons"]]}
    keys = ["name", "unicode_name"] + ["short_names"] * by_short_name
    found, taken = {}, set()
    for key in keys:
        for item in emoji:
            candidates = item[key] if isinstance(item[key], list) else [item[key]]
            for candidate in candidates:
                name = names.get(slug(candidate).replace("-", ""))
                if name and name not in taken and item["code"] not in found:
                    found[item["code"]] = icon_svg(icons, name)
                    taken.add(name)
    return found


def icon_svg(icons, name):
    """One icon of an iconify set as a whole SVG document; an alias may mirror its parent."""
    flip = False
    while name not in icons["icons"]:
        alias = icons["aliases"][name]
        flip ^= alias.get("hFlip", False)
        name = alias["parent"]
    icon = icons["icons"][name]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    left, top = icon.get("left", 0), icon.get("top", 0)
    body = icon["body"]
    if flip:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{body}</svg>'
    ).encode()


def read_emoji(folder, available):
    """The emoji of the benchmark: those of CLDR that Fluent 3D has, less the excluded ones."""
    with open_package(folder, "openmoji") as tar:
        table = tar.extractfile("package/data/openmoji.csv").read().decode("utf8")
    with open_package(folder, "emoji-datasource") as tar:
        source = json.load(tar.extractfile("package/emoji.json"))
    source = {code(item["unified"]): item for item in source}
    emoji = []
    for row in csv.DictReader(io.StringIO(table)):
        key = code(row["hexcode"])
        if (
            row["group"] in SKIPPED_GROUPS
            or row["subgroups"] in SKIPPED_SUBGROUPS
            or row["skintone"]
            or key not in source
            or key not in available
        ):
            continue
        tags = f"{row['tags']},{row['openmoji_tags']}".split(",")
        emoji.append(
            {
                "code": key,
                "name": row["annotation"].replace("’", "'"),
                "unicode_name": (source[key]["name"] or row["annotation"]).lower(),
                "short_names": source[key]["short_names"],
                "group": row["group"],
                "subgroup": row["subgroups"].replace("-", " "),
                "tags": sorted({tag.strip().lower() for tag in tags if tag.strip()}),
            }
        )
    return emoji


def load_styles(folder):
    """The emoji list, and {style: {code: RGBA image}} for all styles."""
    with open_package(folder, "@lobehub/fluent-emoji-3d") as tar:
        raw = {"fluent_3d": read_members(tar, "assets", ".webp")}
    emoji = read_emoji(folder, raw["fluent_3d"])
    for style, vendor in (("noto", "google"), ("twemoji", "twitter")):
        with open_package(folder, f"emoji-datasource-{vendor}") as tar:
            raw[style] = read_members(tar, f"img/{vendor}/64", ".png")
    for style in ("fluent_flat", "noto_v1", "fxemoji", "emojione"):
        package = style.replace("fluent_flat", "fluent-emoji-flat").replace("_", "-")
        with open_package(folder, f"@iconify-json/{package}") as tar:
            # EmojiOne is for evaluation: no guesses by short names there
            raw[style] = read_icons(tar, emoji, by_short_name=style != "emojione")
    with open_package(folder, "openmoji") as tar:
        raw["openmoji"] = read_members(tar, "color/svg", ".svg")
    with open_package(folder, "openmoji") as tar:
        raw["openmoji_black"] = read_members(tar, "black/svg", ".svg")
    codes = [item["code"] for item in emoji]
    images = {}
    for style, files in raw.items():
        draw = raster if style in ("noto", "twemoji", "fluent_3d") else vector
        wanted = [key for key in codes if key in files]
        images[style] = {key: draw(files[key]) for key in tqdm(wanted, style, leave=False)}
        print(f"{style}: {len(wanted)} of {len(codes)} emoji", flush=True)
    return emoji, images


def split_emoji(emoji):
    """Divide the emoji of each class with at least MIN_CLASS of them 50/20/30.

    Man, woman and person of one motif stay together, so that a test image is a motif never seen
    in training. Returns {code: "train" | "val" | "test"} and the sorted class names.
    """
    classes = defaultdict(lambda: defaultdict(list))
    for item in emoji:
        motif = re.sub(r"^(man|woman|person|men|women|people)\b:? ?", "", item["name"])
        classes[item["subgroup"]][motif or item["name"]].append(item["code"])
    part_of, names = {}, []
    rng = random.Random(SEED)
    for name in sorted(classes):
        motifs = [classes[name][motif] for motif in sorted(classes[name])]
        total = sum(map(len, motifs))
        if total < MIN_CLASS:
            continue
        names.append(name)
        rng.shuffle(motifs)
        count = 0
        for codes in motifs:
            middle = (count + len(codes) / 2) / total
            part = "train" if middle < 0.5 else "val" if middle < 0.7 else "test"
            part_of.update(dict.fromkeys(codes, part))
            count += len(codes)
    return part_of, names


def make_splits(emoji, images):
    """{data set: split in the public format}; image paths are relative to `images/`."""
    part_of, names = split_emoji(emoji)
    label = {name: i for i, name in enumerate(names)}

    def entries(style, part):
        return [
            [f"{style}/{item['code']}.webp", label[item["subgroup"]], item["subgroup"]]
            for item in emoji
            if part_of.get(item["code"]) == part and item["code"] in images[style]
        ]

    splits = {"emoji": {part: entries("openmoji", part) for part in ("train", "val", "test")}}
    # only the test emoji are shipped in these styles: the data sets measure transfer
    for dataset, style in (("emoji_3d", "fluent_3d"), ("emoji_sketch", "openmoji_black")):
        splits[dataset] = {"train": [], "val": [], "test": entries(style, "test")}
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
    """WebP bytes of an RGBA image on white; line drawings are smaller without loss."""
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A"))
    buffers = []
    for options in ({"quality": 90}, {"lossless": True, "quality": 100}):
        buffer = io.BytesIO()
        flat.save(buffer, "WEBP", method=6, **options)
        buffers.append(buffer.getvalue())
    return min(buffers, key=len)


def write_archive(path, files):
    """Write {name: bytes or str} as a zip whose bytes depend on nothing else."""
    temporary = Path(f"{path}.tmp")
    with zipfile.ZipFile(temporary, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, STAMP)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # the default depends on the operating system
            is_text = isinstance(files[name], str)
            info.compress_type = zipfile.ZIP_DEFLATED if is_text else zipfile.ZIP_STORED
            archive.writestr(info, files[name])
    temporary.replace(path)


def write_pretrain(path, emoji, images):
    """The images of the pre-training styles with their captions' raw material."""
    position = {item["code"]: i for i, item in enumerate(emoji)}
    rows = [
        (np.asarray(image), position[key], s)
        for s, style in enumerate(PRETRAIN_STYLES)
        for key, image in images[style].items()
    ]
    pixels, index, style = zip(*rows, strict=True)
    meta = {"styles": PRETRAIN_STYLES, "emoji": emoji}
    np.savez(
        path,
        images=np.stack(pixels),
        emoji=np.array(index),
        style=np.array(style),
        meta=np.array(json.dumps(meta)),
    )
    print(f"{path}: {len(rows)} images for pre-training")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder of the npm packages")
    parser.add_argument("--out", type=Path, default="assets/emoji.zip", help="the shipped archive")
    parser.add_argument("--pretrain-out", type=Path, help="npz of the pre-training images")
    args = parser.parse_args()
    try:
        import cairosvg  # noqa: F401
    except ImportError:
        sys.exit("The SVG styles need cairosvg: pip install cairosvg")
    args.packages.mkdir(parents=True, exist_ok=True)
    emoji, images = load_styles(args.packages)
    if args.pretrain_out:
        write_pretrain(args.pretrain_out, emoji, images)
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
    write_archive(args.out, files)
    print(f"{args.out}: {len(paths)} images, {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
