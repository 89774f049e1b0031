"""Build the archive of the data sets that each show pictures of one artist.

    python -m assets.builders.artists --packages FOLDER --output assets/emoji_artists.zip

FOLDER holds the packages as `npm pack` and `pip download` write them; missing ones are downloaded.
Needs npm, pip and `pip install resvg-py`. The same packages and library versions give the same
bytes.

A motif is what a picture shows, regardless of colour, direction and gender. The data sets hold the
motifs that all four artists drew, one picture of each, so that all sets have the same motifs in the
same parts. Nothing here depends on a model.

The archive holds `images/<artist>/<code point>.webp` (64x64, on white), one split file per artist
and split of the classes, `withheld.json` (the emoji that pre-training must not see) and the
licences.
"""

import argparse
import json
import random
import re
from pathlib import Path

from .archive import encode, on_white, write_archive
from .motifs import emoji_set, read_emoji

ARTISTS = ("openmoji", "fluent_3d", "emojione", "symbola")
TEXTS = ("ATTRIBUTION-ARTISTS.txt", "LICENSE-MIT.txt")  # in assets/
# class -> CLDR subgroups that it combines
CLASSES = {
    "bird, fish and bug": (
        "animal bird", "animal amphibian", "animal reptile", "animal marine", "animal bug",
    ),
    "book and mail": ("book paper", "mail"),
    "building": ("place building", "place religious"),
    "clothing": ("clothing",),
    "computer, phone and light": ("phone", "computer", "light video"),
    "event and game": ("event", "award medal", "game", "arts crafts"),
    "ground transport": ("transport ground",),
    "hand and body": (
        "hand fingers open", "hand fingers partial", "hand single finger", "hand fingers closed",
        "hands", "hand prop", "body parts",
    ),
    "happy face": (
        "face smiling", "face affection", "face tongue", "face hand", "face hat", "face glasses",
    ),
    "mammal": ("animal mammal",),
    "office and writing": ("office", "writing"),
    "person": (
        "person", "person gesture", "person role", "person fantasy", "person activity",
        "person resting",
    ),
    "place": ("place map", "place geographic", "place other"),
    "plant and fruit": ("plant flower", "plant other", "food fruit", "food vegetable"),
    "prepared food": ("food prepared", "food asian"),
    "sad face": ("face concerned", "face negative"),
    "sign and warning": ("transport sign", "warning", "av symbol"),
    "sky and weather": ("sky weather",),
    "sport": ("person sport", "sport"),
    "sweet food and drink": ("food sweet", "drink", "dishware"),
    "symbol": ("religion", "zodiac", "punctuation", "math", "currency", "other symbol"),
    "tool and household": ("tool", "lock", "science", "medical", "household", "other object"),
}  # fmt: skip
CLASS_OF = {subgroup: name for name, joined in CLASSES.items() for subgroup in joined}

TRAIN, VAL, LEAST_TEST = 16, 4, 8  # motifs of each class; all others are for test
PARTS_SEED = 1
SPLITS = {"a": 1, "b": 2}  # splits into base and new classes, with the seeds that draw them

PEOPLE = re.compile(r"^(man|woman|person|men|women|people)\b:? ?")
SERIES = {  # end of a name -> the motif of a long series
    re.compile(r"(o'clock|-thirty)$"): "clock",
    re.compile(r"\bmoon( face)?$"): "moon",
}
# Words of a name that describe a variant of a motif
VARIANTS = {
    "red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "pink", "grey",
    "dark", "light", "small", "medium", "large", "left", "right", "up", "down", "upwards",
    "downwards", "leftwards", "rightwards", "pointing", "tilted", "face", "front", "facing",
    "oncoming",
}  # fmt: skip


def motif_of(name):
    """Return the motif of an emoji's name: `police car` for `oncoming police car`."""
    name = name.lower()
    for series, motif in SERIES.items():
        if series.search(name):
            return motif
    words = re.split(r"[^a-z0-9']+", PEOPLE.sub("", name))
    return " ".join(word for word in words if word and word not in VARIANTS) or name


def common_motifs(emoji, images):
    """Return {class: {motif: code}} of the motifs that all artists drew, with their first emoji."""
    found: dict[str, dict[str, str]] = {name: {} for name in CLASSES}
    seen = set()
    for item in emoji:
        motif, name = motif_of(item["name"]), CLASS_OF.get(item["subgroup"])
        drawn = all(item["code"] in pictures for pictures in images.values())
        if name and drawn and motif not in seen:
            seen.add(motif)
            found[name][motif] = item["code"]
    return found


def divide(motifs):
    """Return {part: {class: [code]}}, and the motifs for validation or test."""
    parts: dict[str, dict[str, list]] = {"train": {}, "val": {}, "test": {}}
    unseen = set()
    rng = random.Random(PARTS_SEED)
    for name in sorted(motifs):
        names = sorted(motifs[name])
        if len(names) < TRAIN + VAL + LEAST_TEST:
            raise SystemExit(f"{name} has {len(names)} motifs that all artists drew: too few")
        rng.shuffle(names)
        cuts = {"train": names[:TRAIN], "val": names[TRAIN : TRAIN + VAL]}
        cuts["test"] = names[TRAIN + VAL :]
        for part, chosen in cuts.items():
            parts[part][name] = sorted(motifs[name][motif] for motif in chosen)
        unseen |= {*cuts["val"], *cuts["test"]}
    return parts, unseen


def draw_halves(seed):
    """Return the classes, base classes first: half of all, drawn with a seed."""
    names = sorted(CLASSES)
    base = set(random.Random(seed).sample(names, (len(names) + 1) // 2))
    return sorted(base) + sorted(set(names) - base)


def make_splits(parts):
    """Return {data set: split in the public format}; image paths are relative to `images/`."""
    splits = {}
    for artist in ARTISTS:
        for half, seed in SPLITS.items():
            names = draw_halves(seed)
            splits[dataset_of(artist, half)] = {
                part: [
                    [f"{artist}/{code}.webp", label, name]
                    for label, name in enumerate(names)
                    for code in classes[name]
                ]
                for part, classes in parts.items()
            }
    return splits


def dataset_of(artist, half):
    """Return the name of an artist's data set with a split of the classes: `emoji_fluent_a`."""
    return f"emoji_{artist.removesuffix('_3d')}_{half}"


DATASETS = tuple(dataset_of(artist, half) for artist in ARTISTS for half in SPLITS)


def main():
    """Run the command line: build the archive."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder of the packages")
    parser.add_argument("--output", type=Path, default="assets/emoji_artists.zip")
    args = parser.parse_args()
    args.packages.mkdir(parents=True, exist_ok=True)
    emoji = read_emoji(args.packages)
    images = {}
    for artist in ARTISTS:
        images[artist] = emoji_set(args.packages, artist, emoji)
        print(f"{artist}: {len(images[artist])} of {len(emoji)} emoji", flush=True)
    parts, unseen = divide(common_motifs(emoji, images))
    splits = make_splits(parts)
    withheld = sorted(item["code"] for item in emoji if motif_of(item["name"]) in unseen)
    files = {name: Path(__file__).parents[1].joinpath(name).read_text("utf-8") for name in TEXTS}
    files["withheld.json"] = json.dumps(withheld)
    for name, split in splits.items():
        files[f"split_{name}.json"] = json.dumps(split, ensure_ascii=False)
        print(f"{name}:", {part: len(rows) for part, rows in split.items()})
    paths = {row[0] for split in splits.values() for rows in split.values() for row in rows}
    for path in sorted(paths):
        artist, name = path.split("/")
        files[f"images/{path}"] = encode(on_white(images[artist][Path(name).stem]))
    write_archive(args.output, files)
    print(f"{len(withheld)} emoji are withheld from pre-training")
    print(f"{args.output}: {len(paths)} images, {args.output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
