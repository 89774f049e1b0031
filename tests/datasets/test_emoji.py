"""The embedded benchmark: its archives and its data sets."""

import hashlib
import json
import multiprocessing
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from own_images import read, registered
from paths import ROOT

from benchmark.report.names import motif
from datasets import emoji
from trainers.prompting import UserError

# Emoji sets and icon sets whose pictures the CLIP was trained on. No data set has any of them.
PRETRAINING = {
    "noto", "twemoji", "fluent-emoji-flat", "noto-v1", "fxemoji", "fluent-emoji-high-contrast",
    "fa6-solid", "fluent", "game-icons", "healthicons", "icon-park-outline", "icon-park-solid",
    "icon-park-twotone", "iconoir", "lucide", "material-symbols", "mdi", "mingcute", "ph", "solar",
    "tabler",
}  # fmt: skip
WEIGHTS = ROOT / "trainers" / "prompting" / "embedded" / "emoji_clip.safetensors"
# SHA-256 of the list of emoji that the CLIP was trained without, in any style
WITHHELD = "81bb662626413a908272b3dc1729cc2d256ae7b1cdc969d9c145b5b5556f4e7c"
STYLES = ("", "_blur", "_fog", "_hue", "_dither", "_motion", "_night", "_pixels")
OF_STYLES = [f"emoji{style}" for style in STYLES]
NAMES = [*OF_STYLES, "emoji_animals", "emoji_food"]
BY_ARTIST = [f"emoji_{name}_{half}" for name in ("openmoji", "fluent", "emojione", "symbola")
             for half in "ab"]  # fmt: skip
OF_ARTISTS = [name.title().replace("_", "") for name in BY_ARTIST]
CLASSES = {name.title().replace("_", ""): 37 for name in OF_STYLES}
CLASSES |= {"EmojiAnimals": 129, "EmojiFood": 128} | dict.fromkeys(OF_ARTISTS, 22)
SHA256 = {
    WEIGHTS: "faa25e55890f0d7a27e6d5fea357022a605c26b132af9c2925c26108655cc7a5",
    emoji.ARCHIVE: "769788084d38f31ebad0292949014c92a6ce948344f425ff955d52bdfcf8c351",
    emoji.ARTISTS: "5f18812c00669370ef5fe64ab5e0656f5fc20eb6335303e089e5ae26e7eeb2a0",
}


@pytest.fixture(scope="module")
def archives():
    with zipfile.ZipFile(emoji.ARCHIVE) as main, zipfile.ZipFile(emoji.ARTISTS) as artists:
        yield {"emoji": main, "artists": artists}


@pytest.fixture(scope="module")
def splits(archives):
    pairs = [("emoji", name) for name in NAMES] + [("artists", name) for name in BY_ARTIST]
    return {name: json.loads(archives[of].read(f"split_{name}.json")) for of, name in pairs}


# ---- the shipped archives


@pytest.mark.parametrize(("of", "stated", "more"), [
    ("emoji", "ATTRIBUTION.txt", set()), ("artists", "ATTRIBUTION-ARTISTS.txt", {"withheld.json"}),
])  # fmt: skip
def test_an_archive_holds_what_its_splits_name_and_nothing_else(archives, splits, of, stated, more):
    archive = archives[of]
    names = BY_ARTIST if of == "artists" else NAMES
    named = {row[0] for name in names for rows in splits[name].values() for row in rows}
    texts = {stated, "LICENSE-MIT.txt"} | {f"split_{name}.json" for name in names} | more
    assert set(archive.namelist()) == {f"images/{path}" for path in named} | texts
    attribution = archive.read(stated).decode()
    assert attribution == (ROOT / "assets" / stated).read_text("utf-8")
    styles = {path.split("/")[0] for path in named}
    assert all(f"images/{style}" in attribution for style in styles)
    assert not styles & PRETRAINING


def test_an_emoji_is_in_one_part_only(splits):
    part_of = {}
    for name in OF_STYLES:
        for part, rows in splits[name].items():
            for path, label, _ in rows:
                assert part_of.setdefault(Path(path).stem, (part, label)) == (part, label)


def test_a_motif_is_in_one_part_and_class_of_all_artists(splits):
    place, images = {}, Counter()
    for name in BY_ARTIST:
        for part, rows in splits[name].items():
            for path, _, label in rows:
                shown = motif(name, path)
                assert place.setdefault(shown, (part, label)) == (part, label), path
                images[name, shown] += 1
    assert set(images.values()) == {1}  # so test images show different things
    counts = Counter((part, label) for part, label in place.values())
    assert {counts[part, label] for part, label in counts if part != "test"} == {16, 4}
    assert len(place) == 22 * 20 + 338


def test_test_motifs_of_artists_are_withheld_from_pretraining(archives, splits):
    listed = archives["artists"].read("withheld.json")
    assert hashlib.sha256(listed).hexdigest() == WITHHELD
    withheld = set(json.loads(listed))
    for split in map(splits.get, BY_ARTIST):
        of = {part: {Path(row[0]).stem for row in rows} for part, rows in split.items()}
        assert of["val"] | of["test"] <= withheld
        assert not of["train"] & withheld
    assert {"1f436", "1f415"} <= withheld or not {"1f436", "1f415"} & withheld  # dog face and dog


# ---- the data sets


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("name", CLASSES)
def test_data_sets(data_root, name):
    assert name in map(registered, (*NAMES, *BY_ARTIST))
    dataset = read(name, data_root)
    assert dataset.num_classes == len(dataset.classnames) == CLASSES[name]
    assert {item.label for item in dataset.test} == set(range(CLASSES[name]))
    assert Path(dataset.test[0].impath).is_file()


@pytest.mark.parametrize("name, shots, numbers", [
    ("Emoji", 16, (19, 18, 16, 4)), *((name, 4, (11, 11, 4, 4)) for name in OF_ARTISTS),
])  # fmt: skip
def test_base_to_new(data_root, name, shots, numbers):
    base, new = (read(name, data_root, shots, subset) for subset in ("base", "new"))
    assert not set(base.classnames) & set(new.classnames)
    parts = (base.train_x, base.val)
    most = (max(Counter(item.label for item in part).values()) for part in parts)
    assert (base.num_classes, new.num_classes, *most) == numbers
    again = {item.impath for item in read(name, data_root, shots, "base", seed=2).train_x}
    assert len(again & {item.impath for item in base.train_x}) < len(again)


def test_images_are_never_unpacked_into_the_root_and_a_lost_one_is_named(tmp_path, monkeypatch):
    """The root may hold the user's own images, where `emoji` would be a class."""
    own = tmp_path / "my_images"
    own.mkdir()
    monkeypatch.setattr(emoji, "REPOSITORY", tmp_path)
    dataset = read("Emoji", own)
    image = Path(dataset.test[3].impath)
    assert image.is_relative_to(tmp_path / "data" / "emoji") and not list(own.iterdir())
    image.unlink()
    with pytest.raises(UserError, match=image.name):
        read("Emoji", own)
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert emoji.home() == tmp_path / ".cache" / "align"


def small_archive(path, text="x"):
    with zipfile.ZipFile(path, "w") as file:
        for i in range(50):
            file.writestr(f"images/{i}.txt", text)
    return path


def unpack_together(barrier, archive, root, queue):
    barrier.wait()
    queue.put(str(emoji.unpack(archive, root)))


def test_processes_may_unpack_at_once(tmp_path):
    archive = small_archive(tmp_path / "small.zip")
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(4), context.Queue()
    arguments = (barrier, archive, tmp_path / "root", queue)
    processes = [context.Process(target=unpack_together, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    folders = {queue.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    (folder,) = folders
    assert len(list(Path(folder, "images").iterdir())) == 50
    assert [path.name for path in Path(folder).parent.iterdir()] == [Path(folder).name]


def test_another_archive_is_unpacked_anew(tmp_path):
    archive = small_archive(tmp_path / "small.zip")
    old = emoji.unpack(archive, tmp_path)
    assert emoji.unpack(archive, tmp_path) == old
    new = emoji.unpack(small_archive(archive, "y"), tmp_path)
    assert new != old
    assert (new / "images" / "0.txt").read_text() == "y"


def test_weights_and_images_are_those_that_pages_have_numbers_of():
    for file, digest in SHA256.items():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == digest, file
