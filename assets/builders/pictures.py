r"""Draw the pictures that the embedded CLIP is pre-trained on.

    python -m assets.builders.pictures --packages FOLDER --output pictures.npz \
        --withhold assets/emoji_artists.zip

FOLDER holds npm packages as `npm pack` writes them; missing ones are downloaded (200 MB). The
output has `images` (N, 64, 64, 4) uint8, the indices `emoji` (N,) and `style` (N,), and `meta`: a
JSON string with the emoji, and for each style its name, its look, and whether it is an emoji set.
Needs `pip install resvg-py` and npm.
"""

import argparse
import json
import re
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .motifs import emoji_set, match_names, read_emoji
from .packages import draw, icon_svg, read_iconify

# emoji set -> its look, a key of `captions.LOOKS`
EMOJI_SETS = {
    "noto": "shaded",
    "twemoji": "flat",
    "fluent-emoji-flat": "flat",
    "noto-v1": "shaded",
    "fxemoji": "flat",
    "fluent-emoji-high-contrast": "solid",
}
# icon set -> [(end of a name, look)]; the first match counts
ICON_SETS = {
    "fa6-solid": [("", "solid")],
    "fluent": [("-24-regular", "line"), ("-24-filled", "solid")],
    "game-icons": [("", "solid")],
    "healthicons": [("-outline", "line"), ("", "solid")],
    "icon-park-outline": [("", "line")],
    "icon-park-solid": [("", "solid")],
    "icon-park-twotone": [("", "two-tone")],
    "iconoir": [("-solid", "solid"), ("", "line")],
    "lucide": [("", "line")],
    "material-symbols": [("-outline", "line"), ("", "solid")],
    "mdi": [("-outline", "line"), ("", "solid")],
    "mingcute": [("-line", "line"), ("-fill", "solid")],
    "ph": [("-bold", "line"), ("-fill", "solid"), ("-duotone", "two-tone"), ("", "line")],
    "solar": [("-linear", "line"), ("-bold-duotone", "two-tone"), ("-bold", "solid")],
    "tabler": [("-filled", "solid"), ("", "line")],
}


def icons_of_emoji(icons, kinds, emoji):
    """Return {(code, look): svg} of the icons named like an emoji, one icon for each look."""
    by_name: dict[tuple[str, str], str] = {}
    for name in icons["icons"]:
        kind = next((kind for kind in kinds if name.endswith(kind[0])), None)
        if kind:
            end, look = kind
            base = re.sub(r"-\d+$", "", name.removesuffix(end))
            by_name.setdefault((base.replace("-", ""), look), name)
    found = match_names(emoji, by_name, looks_of(kinds))
    return {place: icon_svg(icons, name) for place, name in found.items()}


def looks_of(kinds):
    """Return the looks of an icon set, without duplicates."""
    return list(dict.fromkeys(look for _, look in kinds))


def draw_pictures(folder):
    """Return the emoji, the styles, and the pictures as (array, emoji index, style index)."""
    emoji = read_emoji(folder)
    position = {item["code"]: i for i, item in enumerate(emoji)}
    styles: list[dict] = []
    rows: list[tuple] = []
    for name, look in EMOJI_SETS.items():
        pictures = emoji_set(folder, name, emoji)
        rows += [(np.asarray(image), position[c], len(styles)) for c, image in pictures.items()]
        styles.append({"name": name, "look": look, "emoji": True})
        print(f"{name}: {len(pictures)}", flush=True)
    for name, kinds in ICON_SETS.items():
        svgs = icons_of_emoji(read_iconify(folder, name), kinds, emoji)
        looks, first = looks_of(kinds), len(styles)
        for (key, look), svg in tqdm(svgs.items(), name, leave=False):
            image = np.asarray(draw(svg))
            if image[..., 3].any():
                rows.append((image, position[key], first + looks.index(look)))
        styles += [{"name": name, "look": look, "emoji": False} for look in looks]
        print(f"{name}: {len(svgs)}", flush=True)
    return emoji, styles, rows


def withhold(codes, emoji, rows):
    """Return the emoji and pictures without the emoji of these codes, in every style.

    Icons are matched with all emoji before, so that none is matched with another emoji instead.
    """
    kept = [i for i, item in enumerate(emoji) if item["code"] not in codes]
    position = {i: place for place, i in enumerate(kept)}
    rows = [(image, position[i], style) for image, i, style in rows if i in position]
    return [emoji[i] for i in kept], rows


def main():
    """Run the command line: draw the pictures and write them to a file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--packages", type=Path, required=True, help="folder of the npm packages")
    parser.add_argument("--output", type=Path, required=True, help="the npz to write")
    parser.add_argument(
        "--withhold", type=Path, metavar="ARCHIVE",
        help="leave out the emoji in withheld.json of this archive (of assets.builders.artists)",
    )  # fmt: skip
    args = parser.parse_args()
    args.packages.mkdir(parents=True, exist_ok=True)
    codes = set()
    if args.withhold:
        with zipfile.ZipFile(args.withhold) as archive:
            codes = set(json.loads(archive.read("withheld.json")))
    emoji, styles, rows = draw_pictures(args.packages)
    emoji, rows = withhold(codes, emoji, rows)
    pixels, index, style = zip(*rows, strict=True)
    np.savez(
        args.output,
        images=np.stack(pixels),
        emoji=np.array(index),
        style=np.array(style),
        meta=np.array(json.dumps({"styles": styles, "emoji": emoji})),
    )
    print(f"{args.output}: {len(rows)} pictures of {len(emoji)} emoji")


if __name__ == "__main__":
    main()
