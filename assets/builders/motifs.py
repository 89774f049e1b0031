"""Read the emoji of the benchmark: names, classes and motifs, and pictures of each emoji set."""

import csv
import io
import json
import random
import re
from collections import defaultdict
from itertools import product

from .packages import (
    code,
    draw,
    draw_glyph,
    icon_svg,
    open_font,
    open_package,
    plain,
    read_files,
    read_iconify,
)

EVALUATED = ("openmoji", "fluent_3d", "emojione")  # artists that are never in pre-training
FILES = {  # emoji sets whose files are named by code point: package, folder, suffix
    "noto": ("emoji-datasource-google", "img/google/64", ".png"),
    "twemoji": ("emoji-datasource-twitter", "img/twitter/64", ".png"),
    "fluent_3d": ("@lobehub/fluent-emoji-3d", "assets", ".webp"),
    "openmoji": ("openmoji", "color/svg", ".svg"),
}
NAMES = ("name", "unicode_name", "short_names")  # keys of an emoji's names: CLDR, Unicode, others

MIN_CLASS = 16  # emoji per class
SHARES = {"train": 0.42, "val": 0.14, "test": 0.44}
SEED = 1
SKIPPED_GROUPS = {"extras-openmoji", "extras-unicode", "component", "flags"}
SKIPPED_SUBGROUPS = {"keycap", "alphanum", "family"}


def read_emoji(folder):
    """Return the emoji of CLDR that Fluent 3D has, without excluded ones, as a list of dicts."""
    with open_package(folder, "openmoji") as tar:
        table = tar.extractfile("package/data/openmoji.csv").read().decode("utf8")
    with open_package(folder, "emoji-datasource") as tar:
        source = json.load(tar.extractfile("package/emoji.json"))
    source = {code(item["unified"]): item for item in source}
    available = read_files(folder, *FILES["fluent_3d"])
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


def match_names(emoji, pictures, looks, keys=NAMES):
    """Return the pictures that are named like an emoji, one for each look.

    A picture is matched with one emoji only: a missing picture is better than a wrong one.

    Args:
        emoji: as from `read_emoji`.
        pictures: {(name as from `plain`, look): picture}.
        looks: the looks to find.
        keys: keys of an emoji's names, in the order in which they are tried.

    Returns:
        {(code, look): picture}.
    """
    found, taken = {}, set()
    for key, item in product(keys, emoji):
        names = item[key] if isinstance(item[key], list) else [item[key]]
        for name, look in product(names, looks):
            picture, place = pictures.get((plain(name), look)), (item["code"], look)
            if picture and picture not in taken and place not in found:
                found[place] = picture
                taken.add(picture)
    return found


def emoji_set(folder, artist, emoji):
    """Return {code: RGBA image} of one emoji set, for the emoji of the benchmark.

    Symbola is a font, which has only emoji of a single code point. Other sets that are not in FILES
    come from Iconify, where pictures have only names.
    """
    if artist == "symbola":
        font = open_font(folder)
        codes = [item["code"] for item in emoji if "-" not in item["code"]]
        glyphs = {key: draw_glyph(font, chr(int(key, 16))) for key in codes}
        return {key: glyph for key, glyph in glyphs.items() if glyph}
    if artist in FILES:
        files = read_files(folder, *FILES[artist])
    else:
        icons = read_iconify(folder, artist)
        names = [*icons.get("aliases", {}), *icons["icons"]]
        pictures = {(name.replace("-", ""), ""): name for name in names}
        # pictures for evaluation are not matched by short names, which are less reliable
        keys = NAMES[:-1] if artist in EVALUATED else NAMES
        found = match_names(emoji, pictures, [""], keys)
        files = {code: icon_svg(icons, name) for (code, _), name in found.items()}
    return {item["code"]: draw(files[item["code"]]) for item in emoji if item["code"] in files}


def split_emoji(emoji):
    """Divide the emoji of each class that has at least MIN_CLASS into train, val and test.

    Man, woman and person of one motif stay in one part, so that a test image shows a motif that was
    never in training. Returns {code: "train" | "val" | "test"} and the sorted class names.
    """
    classes: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
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
            train, val = SHARES["train"], SHARES["train"] + SHARES["val"]
            part = "train" if middle < train else "val" if middle < val else "test"
            part_of.update(dict.fromkeys(codes, part))
            count += len(codes)
    return part_of, names
