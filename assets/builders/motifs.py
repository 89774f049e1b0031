"""The emoji of the benchmark: their names, classes and motifs, and the pictures of each set."""

import csv
import io
import json
import random
import re
from collections import defaultdict

from .packages import (
    code,
    draw_file,
    draw_svg,
    icon_svg,
    open_package,
    read_files,
    read_iconify,
    slug,
)

MIN_CLASS = 16  # emoji per class
SHARES = {"train": 0.42, "val": 0.14, "test": 0.44}
SEED = 1
SKIPPED_GROUPS = {"extras-openmoji", "extras-unicode", "component", "flags"}
SKIPPED_SUBGROUPS = {"keycap", "alphanum", "family"}


def read_emoji(folder):
    """The emoji of CLDR that Fluent 3D has, less the excluded ones: a list of dicts."""
    with open_package(folder, "openmoji") as tar:
        table = tar.extractfile("package/data/openmoji.csv").read().decode("utf8")
    with open_package(folder, "emoji-datasource") as tar:
        source = json.load(tar.extractfile("package/emoji.json"))
    source = {code(item["unified"]): item for item in source}
    available = read_files(folder, "@lobehub/fluent-emoji-3d", "assets", ".webp")
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


def named_pictures(folder, name, emoji, by_short_name):
    """{code: svg} of an Iconify emoji set, which knows its pictures by name alone.

    Every picture goes to one emoji: better a missing picture than a wrong one.
    """
    icons = read_iconify(folder, name)
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


def emoji_set(folder, name, emoji):
    """{code: RGBA image} of one emoji set, of the emoji of the benchmark."""
    if name in ("noto", "twemoji"):
        vendor = {"noto": "google", "twemoji": "twitter"}[name]
        files = read_files(folder, f"emoji-datasource-{vendor}", f"img/{vendor}/64", ".png")
        draw = draw_file
    elif name == "fluent_3d":
        files, draw = read_files(folder, "@lobehub/fluent-emoji-3d", "assets", ".webp"), draw_file
    elif name == "openmoji":
        files, draw = read_files(folder, "openmoji", "color/svg", ".svg"), draw_svg
    else:
        # EmojiOne is for evaluation: no guesses by short names there
        files = named_pictures(folder, name, emoji, by_short_name=name != "emojione")
        draw = draw_svg
    return {item["code"]: draw(files[item["code"]]) for item in emoji if item["code"] in files}


def split_emoji(emoji):
    """Divide the emoji of each class with at least MIN_CLASS of them into train, val and test.

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
            train, val = SHARES["train"], SHARES["train"] + SHARES["val"]
            part = "train" if middle < train else "val" if middle < val else "test"
            part_of.update(dict.fromkeys(codes, part))
            count += len(codes)
    return part_of, names
