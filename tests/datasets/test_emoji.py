"""The embedded benchmark: its archive, its data sets and its weights."""

import errno
import hashlib
import json
import multiprocessing
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import slow_but
from dassl.data.datasets import DATASET_REGISTRY
from embedded import CLASSES as OF_ARTISTS
from embedded import CLIP, DATASETS, PRETRAINING, SHARES
from paths import ROOT
from PIL import Image
from torchvision.transforms.functional import normalize

from datasets import emoji as datasets_emoji
from datasets.emoji import ARCHIVE, unpack
from trainers.prompting import load_clip
from trainers.prompting.backbones.openai import OPENAI
from trainers.prompting.backbones.openai_clip import clip
from trainers.prompting.errors import UserError

NAMES = [*DATASETS, "emoji_animals", "emoji_food"]
CLASSES = {
    "Emoji": 37,
    "EmojiBlur": 37,
    "EmojiFog": 37,
    "EmojiHue": 37,
    "EmojiDither": 37,
    "EmojiMotion": 37,
    "EmojiNight": 37,
    "EmojiPixels": 37,
    "EmojiAnimals": 129,
    "EmojiFood": 128,
}
WEIGHTS = ROOT / "trainers" / "prompting" / "embedded" / "emoji_clip.safetensors"
PROMPT = "a photo of a {}."


@pytest.fixture(scope="module")
def archive():
    with zipfile.ZipFile(ARCHIVE) as file:
        yield file


@pytest.fixture(scope="module")
def splits(archive):
    return {name: json.loads(archive.read(f"split_{name}.json")) for name in NAMES}


# ---- the shipped archive


def test_archive_holds_what_its_splits_name_and_nothing_else(archive, splits):
    named = {row[0] for split in splits.values() for rows in split.values() for row in rows}
    texts = {"ATTRIBUTION.txt", "LICENSE-MIT.txt"} | {f"split_{name}.json" for name in NAMES}
    assert set(archive.namelist()) == {f"images/{path}" for path in named} | texts
    attribution = archive.read("ATTRIBUTION.txt").decode()
    assert attribution == (ROOT / "assets" / "ATTRIBUTION.txt").read_text("utf-8")
    styles = {path.split("/")[0] for path in named}
    assert all(f"images/{style}" in attribution for style in styles)
    assert not styles & PRETRAINING


@pytest.mark.slow
def test_every_image_is_64_by_64(archive):
    for name in archive.namelist():
        if name.startswith("images/"):
            with Image.open(archive.open(name)) as image:
                assert image.convert("RGB").size == (64, 64), name


def test_an_emoji_is_in_one_part_only(splits):
    part_of = {}
    for part, rows in splits["emoji"].items():
        for path, label, _ in rows:
            assert part_of.setdefault(Path(path).stem, (part, label)) == (part, label)
    sizes = {part: sum(p == part for p, _ in part_of.values()) for part in splits["emoji"]}
    for part, share in SHARES.items():
        assert sizes[part] / len(part_of) == pytest.approx(share, abs=0.02)
    for name in DATASETS:
        for part, rows in splits[name].items():
            assert {part_of[Path(path).stem][0] for path, _, _ in rows} == {part}


def test_the_data_sets_are_large_enough_to_compare_methods(splits):
    assert sum(len(splits[name]["test"]) for name in DATASETS) >= 2500


def test_assets_stay_small():
    archives = ARCHIVE.stat().st_size + datasets_emoji.ARTISTS.stat().st_size
    assert archives + WEIGHTS.stat().st_size < 20 * 2**20


# ---- the data sets


def config(root, subset="all", shots=-1):
    dataset = SimpleNamespace(ROOT=str(root), NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset)
    return SimpleNamespace(DATASET=dataset, SEED=1)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("name", CLASSES)
def test_data_sets(data_root, name):
    dataset = DATASET_REGISTRY.get(name)(config(data_root))
    assert dataset.num_classes == len(dataset.classnames) == CLASSES[name]
    assert {item.label for item in dataset.test} == set(range(CLASSES[name]))
    assert Path(dataset.test[0].impath).is_file()


def test_base_to_new(data_root):
    base, new = (datasets_emoji.Emoji(config(data_root, s, 16)) for s in ("base", "new"))
    assert (base.num_classes, new.num_classes) == (19, 18)
    assert not set(base.classnames) & set(new.classnames)
    assert max(sum(i.label == k for i in base.train_x) for k in range(19)) == 16
    assert max(sum(i.label == k for i in base.val) for k in range(19)) == 4


def test_config_files_name_the_data_sets():
    files = [ROOT / "configs" / "datasets" / f"{name}.yaml" for name in NAMES]
    names = [file.read_text().split('"')[1] for file in files]
    assert names == list(CLASSES)


def test_images_are_never_unpacked_into_the_root(tmp_path, monkeypatch):
    """It may hold the user's own images, where `emoji` would be a class."""
    own = tmp_path / "my_images"
    own.mkdir()
    monkeypatch.setattr(datasets_emoji, "REPOSITORY", tmp_path)
    dataset = datasets_emoji.Emoji(config(own))
    assert Path(dataset.test[0].impath).is_relative_to(tmp_path / "data" / "emoji")
    assert not list(own.iterdir())
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert datasets_emoji.home() == tmp_path / ".cache" / "align"


def small_archive(path, text="x"):
    with zipfile.ZipFile(path, "w") as file:
        for i in range(200):
            file.writestr(f"images/{i}.txt", text)
    return path


def unpack_together(barrier, archive, root, queue):
    barrier.wait()
    queue.put(str(unpack(archive, root)))


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
    assert len(list(Path(folder, "images").iterdir())) == 200
    assert [path.name for path in Path(folder).parent.iterdir()] == [Path(folder).name]


def test_folders_of_killed_processes_are_removed(tmp_path):
    old, new = (tmp_path / "emoji" / f".unpacking-{name}" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    unpack(small_archive(tmp_path / "small.zip"), tmp_path)
    assert new.exists() and not old.exists()  # another process may still write the new one


def test_another_archive_is_unpacked_anew(tmp_path):
    archive = small_archive(tmp_path / "small.zip")
    old = unpack(archive, tmp_path)
    assert unpack(archive, tmp_path) == old
    new = unpack(small_archive(archive, "y"), tmp_path)
    assert new != old
    assert (new / "images" / "0.txt").read_text() == "y"


@pytest.mark.parametrize("kind", ["missing", "not a zip", "root is a file"])
def test_a_failure_to_unpack_is_one_sentence(tmp_path, kind):
    archive, root = tmp_path / "a.zip", tmp_path / "root"
    if kind == "not a zip":
        archive.write_text("no zip")
    elif kind == "root is a file":
        small_archive(archive)
        root.write_text("")
    with pytest.raises(UserError, match="The emoji images") as caught:
        unpack(archive, root)
    assert caught.value.exit_code == 2
    assert str(archive) in str(caught.value)
    assert not list(root.glob("emoji/*"))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some disk space"), (errno.EACCES, "make that folder writable")],
)
def test_a_failure_to_unpack_says_what_to_do(tmp_path, monkeypatch, number, remedy):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(zipfile.ZipFile, "extractall", fail)
    with pytest.raises(UserError, match=rf"{os.strerror(number)}\): {remedy}"):
        unpack(ARCHIVE, tmp_path)


def test_a_lost_image_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_emoji, "REPOSITORY", tmp_path)
    dataset = datasets_emoji.Emoji(config(tmp_path))
    lost = Path(dataset.test[3].impath)
    lost.unlink()
    with pytest.raises(UserError, match=lost.name):
        datasets_emoji.Emoji(config(tmp_path))


# ---- the shipped weights


def test_the_weights_are_those_that_were_trained_without_these_styles():
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == CLIP


@pytest.fixture(scope="module")
def emoji_clip():
    return load_clip("emoji").float()


def sentences(emoji_clip, texts):
    with torch.no_grad():
        return torch.nn.functional.normalize(emoji_clip.encode_text(clip.tokenize(texts)), dim=-1)


def test_every_word_of_the_class_names_was_trained(emoji_clip, splits):
    """But for single animals and food: pre-training withholds a third of the emoji."""
    names = {r[2] for name in DATASETS for rows in splits[name].values() for r in rows}
    names |= set(OF_ARTISTS)
    tokens = clip.tokenize([PROMPT.format(name) for name in sorted(names)]).unique()[1:]
    assert emoji_clip.token_embedding.weight[tokens].abs().sum(1).gt(0).all()


@pytest.mark.parametrize("name", slow_but(DATASETS, "emoji"))
def test_zero_shot_is_above_chance_and_leaves_room(emoji_clip, archive, splits, name):
    rows = splits[name]["test"]
    files = (archive.open(f"images/{path}") for path, _, _ in rows)
    pixels = np.stack([np.array(Image.open(file).convert("RGB")) for file in files])
    images = normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, OPENAI.mean, OPENAI.std)
    labels = torch.tensor([label for _, label, _ in rows])
    names = dict(sorted((row[1], row[2]) for row in rows))
    half = (len(names) + 1) // 2
    texts = sentences(emoji_clip, [PROMPT.format(n) for n in names.values()])
    with torch.no_grad():
        scores = emoji_clip.encode_image(images) @ texts.T
    for low, high in ((0, half), (half, len(names))):
        chosen = (labels >= low) & (labels < high)
        hits = scores[chosen, low:high].argmax(1) + low == labels[chosen]
        assert 2 / (high - low) <= hits.float().mean() < 0.65


def test_context_words_matter(emoji_clip):
    texts = [PROMPT, "a silhouette of a {}.", "a line drawing of a {}."]
    plain, *others = sentences(emoji_clip, [text.format("dog") for text in texts])
    assert max(float(plain @ other) for other in others) < 0.95
