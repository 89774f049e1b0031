"""Download the packages that pictures come from, and read and draw their pictures.

An emoji set names its pictures by code point or by name; an icon set of Iconify is one JSON file of
SVG bodies with names; a font is a file in a wheel. Versions are fixed, so that the pictures are
always the same.
"""

import io
import json
import re
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = 64
PACKAGES = {
    "emoji-datasource": "16.0.0",
    "emoji-datasource-google": "16.0.0",
    "emoji-datasource-twitter": "16.0.0",
    "@lobehub/fluent-emoji-3d": "1.1.0",
    "openmoji": "17.0.0",
}
ICONIFY = {
    "emojione": "1.2.3",
    "fa6-solid": "1.2.4",
    "fluent": "1.2.60",
    "fluent-emoji-flat": "1.2.6",
    "fluent-emoji-high-contrast": "1.2.6",
    "fxemoji": "1.2.2",
    "game-icons": "1.2.4",
    "healthicons": "1.2.13",
    "icon-park-outline": "1.2.4",
    "icon-park-solid": "1.2.4",
    "icon-park-twotone": "1.2.4",
    "iconoir": "1.2.11",
    "lucide": "1.2.137",
    "material-symbols": "1.2.98",
    "mdi": "1.2.3",
    "mingcute": "1.2.8",
    "noto-v1": "1.2.5",
    "ph": "1.2.2",
    "solar": "1.2.13",
    "tabler": "1.2.41",
}
WHEEL = "rinoh-typeface-symbola==0.1.1"  # Symbola 9.00, on PyPI
FONT = "rinoh_typeface_symbola/Symbola.ttf"  # in the wheel
FONT_SIZE = 4 * SIZE  # a glyph is drawn larger and then reduced to SIZE
MARGIN = 0.04  # as a share of a glyph's longer side
PACKAGES |= {f"@iconify-json/{name}": version for name, version in ICONIFY.items()}


def open_package(folder, name):
    """Open the tar file of an npm package; `npm pack` downloads it if it is not in `folder`."""
    path = folder / f"{name.lstrip('@').replace('/', '-')}-{PACKAGES[name]}.tgz"
    command = ["npm", "pack", "--pack-destination", str(folder), f"{name}@{PACKAGES[name]}"]
    return tarfile.open(fetched(path, command))


def open_font(folder):
    """Open the font Symbola in its wheel; `pip download` gets it if it is not in `folder`."""
    path = folder / f"{WHEEL.replace('-', '_').replace('==', '-')}-py3-none-any.whl"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), WHEEL]
    with zipfile.ZipFile(fetched(path, command)) as wheel:
        return ImageFont.truetype(io.BytesIO(wheel.read(FONT)), FONT_SIZE)


def fetched(path, command):
    """Run the command that downloads a package if it does not exist, and return its path."""
    if not path.exists():
        try:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            tool = "npm" if command[0] == "npm" else "pip"
            sys.exit(
                f"{path.name} is not in {path.parent} and {tool} could not download it: {error}"
            )
    return path


def code(hexcode):
    """Return code points in lower case, without variation selectors and leading zeros."""
    parts = (part.lstrip("0") for part in hexcode.lower().split("-"))
    return "-".join(part for part in parts if part != "fe0f")


def plain(text):
    """Return only letters and digits of a name, for comparison: `Women’s boot` -> `womensboot`."""
    ascii_text = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", ascii_text)


def read_files(folder, package, inside, suffix):
    """Return {code: image} of the files in a folder of a package; str for SVG, else bytes."""
    files = {}
    with open_package(folder, package) as tar:
        for member in tar:
            path = Path(member.name)
            if path.parent.as_posix() == f"package/{inside}" and path.suffix == suffix:
                data = tar.extractfile(member).read()
                files[code(path.stem)] = data.decode() if suffix == ".svg" else data
    return files


def read_iconify(folder, name):
    """Read the JSON of an Iconify set."""
    with open_package(folder, f"@iconify-json/{name}") as tar:
        return json.load(tar.extractfile("package/icons.json"))


def icon_svg(icons, name):
    """Return an icon of an Iconify set as an SVG document; an alias may mirror its parent."""
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
    )


def draw(picture):
    """Draw an SVG document (str) or a bitmap file (bytes) as an RGBA image (SIZE, SIZE).

    A drawing that is not square is centred.
    """
    if isinstance(picture, bytes):
        image = Image.open(io.BytesIO(picture)).convert("RGBA")
        return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    try:
        from resvg_py import svg_to_bytes  # needed only by the builders
    except ImportError:
        sys.exit("Drawing SVG needs resvg-py: pip install resvg-py")

    png = bytes(svg_to_bytes(svg_string=picture, width=SIZE, height=SIZE))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if image.size == (SIZE, SIZE):
        return image
    whole = Image.new("RGBA", (SIZE, SIZE))
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    whole.paste(image, ((SIZE - image.width) // 2, (SIZE - image.height) // 2))
    return whole


def draw_glyph(font, character):
    """Draw a character in black as an RGBA image (SIZE, SIZE), as large as fits.

    Returns None if the font lacks the character.
    """
    if bytes(font.getmask(character)) == bytes(font.getmask("\U0010ffff")):  # both: missing glyph
        return None
    ink = Image.new("L", (3 * FONT_SIZE, 3 * FONT_SIZE))
    ImageDraw.Draw(ink).text((FONT_SIZE, FONT_SIZE), character, font=font, fill=255)
    ink = ink.crop(ink.getbbox())
    side = round(max(ink.size) * (1 + 2 * MARGIN))
    square = Image.new("L", (side, side))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    whole = Image.new("RGBA", (SIZE, SIZE))
    whole.putalpha(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    return whole
