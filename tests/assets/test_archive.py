"""Tests of the builders of the embedded data sets, on small packages in the real layout."""

import io
import json
import random
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from assets.builders import archive, artists, pictures
from assets.builders.packages import (
    PACKAGES,
    draw,
    draw_glyph,
    icon_svg,
    open_font,
    open_package,
)


def pack(folder, name, version, files):
    path = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    with tarfile.open(path, "w:gz") as tar:
        for file, data in files.items():
            info = tarfile.TarInfo(f"package/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def drawing(i, style, suffix):
    image = Image.new("RGBA", (72, 72))
    ImageDraw.Draw(image).ellipse(
        [8, 8, 30 + i, 60 - i], fill=(8 * i, 40 * style, 255 - 8 * i, 255)
    )
    buffer = io.BytesIO()
    image.save(buffer, suffix)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Write packages with 32 emoji in two classes, three of them people, and some to leave out."""
    folder = tmp_path_factory.mktemp("packages")
    names = [f"bird{i}" for i in range(16)] + [f"tool{i}" for i in range(13)]
    names += ["man cook", "woman cook", "cook"]
    codes = [f"1F4{i:02X}" for i in range(32)]
    lines = [
        f'x,{c},animals-nature,{"animal-bird" if i < 16 else "tool"},{n},"red, big",thing,,'
        for i, (c, n) in enumerate(zip(codes, names, strict=True))
    ]
    lines += ["x,31-20E3,symbols,keycap,keycap 1,,,,", "x,1F1E9,flags,country-flag,flag,,,,"]
    lines += [f"x,{codes[30]}-1F3FB,people-body,tool,dark cook,,,1F3FB,"]
    header = "emoji,hexcode,group,subgroups,annotation,tags,openmoji_tags,skintone,x"
    csv = "\n".join([header, *lines]).encode()
    source = [
        {"unified": c, "name": n.upper(), "short_names": [n.replace(" ", "_")]}
        for c, n in zip([*codes, "0031-FE0F-20E3"], [*names, "keycap"], strict=True)
    ]
    icons = {
        n.replace(" ", "-"): {"body": f'<circle r="{i + 1}"/>'} for i, n in enumerate(names[1:])
    }
    iconify = {"icons.json": json.dumps({"icons": icons, "width": 32, "height": 32}).encode()}

    def images(where, style, kind):
        return {f"{where}/{c.lower()}.{kind}": drawing(i, style, kind) for i, c in enumerate(codes)}

    svg = {f"{s}/svg/{c}.svg": b"<svg/>" for s in ("color",) for c in codes}
    content = {
        "emoji-datasource": {"emoji.json": json.dumps(source).encode()},
        "emoji-datasource-google": images("img/google/64", 1, "png"),
        "emoji-datasource-twitter": images("img/twitter/64", 2, "png"),
        "@lobehub/fluent-emoji-3d": images("assets", 3, "webp"),
        "openmoji": {"data/openmoji.csv": csv, **svg},
    }
    for name, version in PACKAGES.items():
        pack(folder, name, version, content.get(name, iconify))
    return folder


@pytest.fixture(scope="module")
def built(packages, tmp_path_factory):
    """Build the archive and the pre-training file twice; return their folder."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "resvg_py", SimpleNamespace(svg_to_bytes=drawn))
        for i in range(2):
            for module, kind in ((archive, "zip"), (pictures, "npz")):
                paths = ["--packages", str(packages), "--output", str(folder / f"{i}.{kind}")]
                patch.setattr(sys, "argv", ["x", *paths])
                module.main()
    return folder


def drawn(svg_string, width, height):
    """Return a picture that depends on the drawing, in place of resvg's."""
    image = Image.new(
        "RGBA", (width, height), (len(svg_string) % 256, sum(svg_string.encode()) % 256, 9)
    )
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return list(buffer.getvalue())


def test_the_builder_is_deterministic(built):
    assert (built / "0.zip").read_bytes() == (built / "1.zip").read_bytes()
    one, two = (dict(np.load(built / f"{i}.npz")) for i in range(2))
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_excluded_emoji_are_left_out(built):
    data = np.load(built / "0.npz")
    meta = json.loads(str(data["meta"]))
    assert [item["name"] for item in meta["emoji"]][-3:] == ["man cook", "woman cook", "cook"]
    assert len(meta["emoji"]) == 32
    names = [style["name"] for style in meta["styles"]]
    counts = dict(zip(names, np.bincount(data["style"], minlength=len(names)), strict=False))
    assert counts["noto"] == counts["twemoji"] == 32
    assert counts["fxemoji"] == 31  # the icon sets lack `bird0`


def test_an_icon_has_the_look_of_its_name(built):
    """`-filled` means solid, and a set without such names has one look."""
    meta = json.loads(str(np.load(built / "0.npz")["meta"]))
    looks = [(style["name"], style["look"]) for style in meta["styles"]]
    assert {("tabler", "solid"), ("tabler", "line"), ("lucide", "line")} <= set(looks)
    assert len(looks) == len(set(looks))  # Phosphor has two ways to draw lines
    icons = {"icons": {name: {"body": "<p/>"} for name in ("cat", "cat-filled", "cat-2-filled")}}
    emoji = [{"code": "1", "name": "cat", "unicode_name": "cat", "short_names": ["cat"]}]
    found = pictures.icons_of_emoji(icons, [("-filled", "solid"), ("", "line")], emoji)
    assert set(found) == {("1", "solid"), ("1", "line")}


def test_man_woman_and_person_stay_in_one_part(built):
    with zipfile.ZipFile(built / "0.zip") as file:
        split = json.loads(file.read("split_emoji.json"))
    cooks = {f"{code}.webp" for code in ("1f41d", "1f41e", "1f41f")}
    parts = [p for p, rows in split.items() if cooks & {Path(row[0]).name for row in rows}]
    assert len(parts) == 1


def test_zip_bytes_depend_only_on_the_content(tmp_path):
    files = [(f"{i}.webp", bytes([i] * i)) for i in range(9)] + [("a.json", "[1]")]
    archive.write_archive(tmp_path / "a.zip", dict(files))
    random.Random(1).shuffle(files)
    archive.write_archive(tmp_path / "b.zip", dict(files))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_an_alias_may_mirror_its_parent():
    icons = {"icons": {"left": {"body": "<p/>"}}, "aliases": {"right": {"parent": "left"}}}
    icons["aliases"]["right"]["hFlip"] = True
    assert "scale(-1 1)" in icon_svg(icons, "right")
    assert "scale" not in icon_svg(icons, "left")


def test_missing_tools_are_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(SystemExit, match="pip install resvg-py"):
        draw("<svg/>")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="npm could not download"):
        open_package(tmp_path, "openmoji")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SystemExit, match="rinoh_typeface_symbola-0.1.1.*pip could not download"):
        open_font(tmp_path)


# ---- the data sets of single artists


@pytest.mark.parametrize(
    "name, motif",
    [
        ("oncoming police car", "police car"),
        ("woman cook", "cook"),
        ("men with bunny ears", "with bunny ears"),
        ("green apple", "apple"),
        ("dog face", "dog"),
        ("three-thirty", "clock"),
        ("full moon face", "moon"),
        ("moon cake", "moon cake"),
        ("medium-small white circle", "circle"),
        ("person", "person"),
    ],
)
def test_variants_are_one_motif(name, motif):
    assert artists.motif_of(name) == motif


def some_motifs(count):
    return {name: {f"{name} {i}": f"{name} {i:x}" for i in range(count)} for name in ("a", "b")}


def test_every_class_has_the_same_number_of_training_motifs():
    parts, unseen = artists.divide(some_motifs(30))
    sizes = {part: {len(codes) for codes in classes.values()} for part, classes in parts.items()}
    assert sizes == {"train": {16}, "val": {4}, "test": {10}}
    assert len(unseen) == 2 * (4 + 10)
    codes = [code for classes in parts.values() for some in classes.values() for code in some]
    assert len(codes) == len(set(codes)) == 60
    with pytest.raises(SystemExit, match="a has 27 motifs that all artists drew: too few"):
        artists.divide(some_motifs(27))


def test_only_motifs_that_all_artists_drew_are_used():
    emoji = [
        {"code": c, "name": n, "subgroup": "animal-mammal".replace("-", " ")}
        for c, n in (
            ("1", "dog face"),
            ("2", "dog"),
            ("3", "cat"),
            ("4", "fox"),
            ("5", "white fox"),
        )
    ]
    images = {"openmoji": dict.fromkeys("12345"), "symbola": dict.fromkeys("1245")}
    assert artists.common_motifs(emoji, images)["mammal"] == {"dog": "1", "fox": "4"}


def test_withheld_emoji_are_neither_in_pictures_nor_in_captions(packages, tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("withheld.json", json.dumps(["1f400", "1f41d"]))
    monkeypatch.setitem(sys.modules, "resvg_py", SimpleNamespace(svg_to_bytes=drawn))
    paths = ["x", "--packages", str(packages)]
    for name, options in (("all", []), ("less", ["--withhold", str(tmp_path / "a.zip")])):
        output = ["--output", str(tmp_path / f"{name}.npz")]
        monkeypatch.setattr(sys, "argv", [*paths, *output, *options])
        pictures.main()
    whole, less = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("all", "less"))
    codes, names = (
        [item["code"] for item in json.loads(str(f["meta"]))["emoji"]] for f in (whole, less)
    )
    assert names == [code for code in codes if code not in ("1f400", "1f41d")]
    kept = [i for i, e in enumerate(whole["emoji"]) if codes[e] in names]
    assert len(kept) < len(whole["emoji"])
    assert np.array_equal(less["images"], whole["images"][kept])
    assert [names[e] for e in less["emoji"]] == [codes[e] for e in whole["emoji"][kept]]


def test_a_glyph_fills_its_picture():
    font = ImageFont.load_default(256)
    for character in "A.":  # a large and a small glyph
        alpha = np.asarray(draw_glyph(font, character))[..., 3] > 127
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 56 <= longer <= 62
        assert abs(rows[0] + rows[-1] - 63) <= 2 and abs(columns[0] + columns[-1] - 63) <= 2
    assert draw_glyph(font, "\U0001f400") is None
