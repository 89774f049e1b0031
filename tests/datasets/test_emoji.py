"""The embedded benchmark: its archive, its data sets, its builder and its pre-training.

It is long because what is built is tested beside what is read.
"""

import importlib.util
import io
import json
import multiprocessing
import os
import random
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from paths import ROOT
from PIL import Image, ImageDraw

from datasets import emoji as datasets_emoji
from datasets.emoji import ARCHIVE, unpack
from trainers.prompting import load_clip
from trainers.prompting.errors import UserError

NAMES = ["emoji", "emoji_3d", "emoji_sketch", "emoji_animals", "emoji_food"]
CLASSES = {
    "Emoji": 37,
    "Emoji3D": 37,
    "EmojiSketch": 37,
    "EmojiAnimals": 129,
    "EmojiFood": 128,
}
WEIGHTS = ROOT / "assets" / "emoji_clip.safetensors"


def script(name):
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def builder():
    return script("build_emoji")


@pytest.fixture(scope="module")
def pretrain():
    return script("pretrain_emoji_clip")


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
    for style in {path.split("/")[0] for path in named}:
        assert f"images/{style}" in attribution


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
    shares = [round(100 * size / len(part_of)) for size in sizes.values()]
    assert np.abs(np.array(shares) - [50, 20, 30]).max() <= 2
    for name in ("emoji_3d", "emoji_sketch"):  # the test emoji, in another style
        shifted = {Path(path).stem: label for path, label, _ in splits[name]["test"]}
        assert shifted == {c: label for c, (p, label) in part_of.items() if p == "test"}


def test_downstream_styles_are_not_among_those_of_pretraining(builder, splits):
    styles = {
        row[0].split("/")[0] for split in splits.values() for rows in split.values() for row in rows
    }
    assert styles == set(builder.DOWNSTREAM_STYLES)
    assert not styles & set(builder.PRETRAIN_STYLES)


def test_assets_stay_small():
    assert ARCHIVE.stat().st_size + WEIGHTS.stat().st_size < 16 * 2**20


# ---- the data sets


def config(root, subset="all", shots=-1):
    dataset = SimpleNamespace(ROOT=str(root), NUM_SHOTS=shots, SUBSAMPLE_CLASSES=subset)
    return SimpleNamespace(DATASET=dataset, SEED=1)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("name", CLASSES)
def test_data_sets(data_root, name):
    dataset = getattr(datasets_emoji, name)(config(data_root))
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


def test_without_a_root_the_images_go_below_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets_emoji, "REPOSITORY", tmp_path)
    dataset = datasets_emoji.Emoji(config(""))
    assert Path(dataset.test[0].impath).is_relative_to(tmp_path / "data" / "emoji")


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


def test_what_a_killed_process_left_is_removed(tmp_path):
    old, new = (tmp_path / "emoji" / f".unpacking-{name}" for name in ("old", "new"))
    for left in (old, new):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    unpack(small_archive(tmp_path / "small.zip"), tmp_path)
    assert new.exists() and not old.exists()  # the new one may be at work


def test_another_archive_is_unpacked_anew(tmp_path):
    archive = small_archive(tmp_path / "small.zip")
    old = unpack(archive, tmp_path)
    assert unpack(archive, tmp_path) == old
    new = unpack(small_archive(archive, "y"), tmp_path)
    assert new != old
    assert (new / "images" / "0.txt").read_text() == "y"


@pytest.mark.parametrize("kind", ["missing", "not a zip", "root is a file"])
def test_what_cannot_be_unpacked_is_told_in_one_sentence(tmp_path, kind):
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


def test_a_lost_image_is_named(tmp_path):
    dataset = datasets_emoji.Emoji(config(tmp_path))
    lost = Path(dataset.test[3].impath)
    lost.unlink()
    with pytest.raises(UserError, match=lost.name):
        datasets_emoji.Emoji(config(tmp_path))


# ---- the builder, on packages of the true layout with little in them


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
def packages(builder, tmp_path_factory):
    """32 emoji in two classes, one of them of three people, and some to be left out."""
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

    svg = {f"{s}/svg/{c}.svg": b"<svg/>" for s in ("color", "black") for c in codes}
    content = {
        "emoji-datasource": {"emoji.json": json.dumps(source).encode()},
        "emoji-datasource-google": images("img/google/64", 1, "png"),
        "emoji-datasource-twitter": images("img/twitter/64", 2, "png"),
        "@lobehub/fluent-emoji-3d": images("assets", 3, "webp"),
        "openmoji": {"data/openmoji.csv": csv, **svg},
    }
    for name, version in builder.PACKAGES.items():
        pack(folder, name, version, content.get(name, iconify))
    return folder


@pytest.fixture(scope="module")
def built(builder, packages, tmp_path_factory):
    """The archive and the pre-training file, built twice; SVG drawn by a stand-in for cairosvg."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cairosvg", SimpleNamespace())
        patch.setattr(
            builder,
            "vector",
            lambda svg: Image.new(
                "RGBA", (64, 64), (len(svg) % 256, svg[-20] if svg[20:] else 0, 9)
            ),
        )
        for i in range(2):
            out = ["--out", str(folder / f"{i}.zip"), "--pretrain-out", str(folder / f"{i}.npz")]
            patch.setattr(sys, "argv", ["build_emoji.py", "--packages", str(packages), *out])
            builder.main()
    return folder


def test_the_builder_is_deterministic(built):
    assert (built / "0.zip").read_bytes() == (built / "1.zip").read_bytes()


def test_the_builder_leaves_out_what_it_should(built):
    data = np.load(built / "0.npz")
    meta = json.loads(str(data["meta"]))
    assert [item["name"] for item in meta["emoji"]][-3:] == ["man cook", "woman cook", "cook"]
    assert len(meta["emoji"]) == 32
    counts = np.bincount(data["style"])
    assert counts.tolist() == [32, 32, 31, 31, 31]  # the icon sets lack `bird0`
    assert data["images"].shape == (157, 64, 64, 4)


def test_man_woman_and_person_stay_in_one_part(built):
    with zipfile.ZipFile(built / "0.zip") as file:
        split = json.loads(file.read("split_emoji.json"))
    cooks = {f"{code}.webp" for code in ("1f41d", "1f41e", "1f41f")}
    parts = [p for p, rows in split.items() if cooks & {Path(row[0]).name for row in rows}]
    assert len(parts) == 1


def test_zip_bytes_depend_on_the_content_alone(builder, tmp_path):
    files = [(f"{i}.webp", bytes([i] * i)) for i in range(9)] + [("a.json", "[1]")]
    builder.write_archive(tmp_path / "a.zip", dict(files))
    random.Random(1).shuffle(files)
    builder.write_archive(tmp_path / "b.zip", dict(files))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_an_alias_may_mirror_its_parent(builder):
    icons = {"icons": {"left": {"body": "<p/>"}}, "aliases": {"right": {"parent": "left"}}}
    icons["aliases"]["right"]["hFlip"] = True
    assert b"scale(-1 1)" in builder.icon_svg(icons, "right")
    assert b"scale" not in builder.icon_svg(icons, "left")


def test_the_builder_says_what_it_needs(builder, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cairosvg", None)
    monkeypatch.setattr(sys, "argv", ["build_emoji.py", "--packages", str(tmp_path)])
    with pytest.raises(SystemExit, match="pip install cairosvg"):
        builder.main()
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="npm could not fetch"):
        builder.open_package(tmp_path, "openmoji")


# ---- pre-training


def test_the_fast_encoders_are_the_stock_class(pretrain):
    clip_model = pretrain.build_clip(pretrain.ARCH)
    images = torch.randn(3, 3, 64, 64)
    tokens = pretrain.tokenize(["a photo of a hamster.", "an emoji of a tool.", "red."])
    ends = tokens.argmax(1)
    with torch.no_grad():
        stock = [clip_model.encode_image(images), clip_model.encode_text(tokens)]
        ours = [
            pretrain.encode_image(clip_model, images)[:, 0],
            pretrain.encode_text(clip_model, pretrain.cut(tokens, ends))[torch.arange(3), ends],
        ]
    for a, b in zip(stock, ours, strict=True):
        torch.testing.assert_close(a / a.norm(dim=-1, keepdim=True), b, atol=1e-5, rtol=0)


def test_all_true_pairs_are_positives(pretrain):
    emoji = [
        {"name": n, "subgroup": s, "tags": t, "unicode_name": n, "short_names": [n]}
        for n, s, t in [("ant", "bug", ["small"]), ("bee", "bug", ["bug"]), ("cat", "pet", [])]
    ]
    captions = pretrain.Captions(emoji)
    truth = {filling: captions.truth[f].tolist() for filling, f in captions.number.items()}
    assert truth["bug"] == [True, True, False]
    assert truth["small"] == [True, False, False]
    assert truth["cat, a kind of pet"] == [False, False, True]
    similarity = torch.eye(3)
    perfect = pretrain.contrastive(similarity, torch.eye(3), 100.0)
    assert perfect > 0  # smoothing
    assert perfect < pretrain.contrastive(similarity, torch.eye(3)[[1, 0, 2]], 100.0)


def test_a_caption_has_a_word_to_compare(pretrain):
    item = {"name": "ant", "subgroup": "bug", "unicode_name": "ant", "short_names": ["ant"]}
    captions = pretrain.Captions([{**item, "tags": [":)", "-_-"]}])
    tokens, ends, fillings = captions.draw(
        torch.zeros(500, dtype=torch.long), np.random.default_rng(1)
    )
    assert pretrain.word_mask(tokens, ends).any(1).all()
    assert captions.truth[fillings, 0].all()


def test_late_interaction_counts_words_alone(pretrain):
    patches = torch.nn.functional.normalize(torch.randn(2, 5, 8), dim=-1)
    words = torch.nn.functional.normalize(torch.randn(3, 6, 8), dim=-1)
    mask = pretrain.word_mask(words, torch.tensor([5, 4, 3]))
    assert mask.sum(1).tolist() == [3, 2, 1]
    score = pretrain.late_interaction(patches, words, mask)
    words[~mask] = 7.0
    assert torch.equal(score, pretrain.late_interaction(patches, words, mask))
    # with one word, the plan gives half to the mean over patches
    cos = patches @ words[2, 1]
    weight = torch.softmax(cos / pretrain.SOFT_MAX, 1)
    expected = (cos.mean(1) + (weight * cos).sum(1)) / 2
    torch.testing.assert_close(score[:, 2], expected)


def test_augmented_images_are_finite(pretrain):
    rgba = torch.randint(0, 256, (64, 4, 64, 64), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(1)
    out = pretrain.augment(rgba, torch.ones(64, dtype=torch.bool), generator)
    assert out.shape == (64, 3, 64, 64)
    assert out.isfinite().all()
    low, high = (-pretrain.MEAN / pretrain.STD).min(), ((1 - pretrain.MEAN) / pretrain.STD).max()
    assert low - 1e-4 <= out.min() and out.max() <= high + 1e-4


def run_pretrain(pretrain, monkeypatch, built, output, *options):
    paths = ["--data", str(built / "0.npz"), "--archive", str(built / "0.zip")]
    command = ["x", *paths, "--output", str(output), "--batch", "8", "--warmup", "1", *options]
    monkeypatch.setattr(sys, "argv", command)
    pretrain.main()


@pytest.mark.slow
def test_pretraining_runs_resumes_and_exports(pretrain, built, tmp_path, monkeypatch):
    run_pretrain(pretrain, monkeypatch, built, tmp_path / "once", "--steps", "2")
    log = (tmp_path / "once" / "log.txt").read_text()
    assert "finished: 2 steps" in log and "test/cls/new" in log

    # stopped after a step, then started again
    run_pretrain(pretrain, monkeypatch, built, tmp_path / "twice", "--steps", "1")
    run_pretrain(pretrain, monkeypatch, built, tmp_path / "twice", "--steps", "2")
    once, twice = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("once", "twice")
    )
    assert once["step"] == twice["step"] == 2
    for key, value in once["model"].items():
        torch.testing.assert_close(value, twice["model"][key])

    file = tmp_path / "clip.safetensors"
    run_pretrain(pretrain, monkeypatch, built, tmp_path / "once", "--export", str(file))
    clip_model = load_clip(str(file))
    tokens = pretrain.tokenize(["a photo of a animal bird."])
    assert clip_model.token_embedding.weight[tokens[0, :8]].abs().sum(1).gt(0).all()
    assert clip_model.encode_image(torch.zeros(1, 3, 64, 64)).isfinite().all()


# ---- the shipped weights


@pytest.fixture(scope="module")
def emoji_clip():
    return load_clip("emoji")


def test_every_word_of_the_class_names_was_trained(emoji_clip, pretrain, splits):
    names = {r[2] for split in splits.values() for rows in split.values() for r in rows}
    tokens = pretrain.tokenize([f"a photo of a {name}." for name in sorted(names)]).unique()[1:]
    assert emoji_clip.token_embedding.weight[tokens].abs().sum(1).gt(0).all()


@pytest.mark.parametrize(("name", "least"), [("emoji", 30), ("emoji_3d", 45)])
def test_zero_shot_is_far_from_chance(emoji_clip, pretrain, archive, splits, name, least):
    rows = splits[name]["test"][::2]
    images, labels = pretrain.Evaluation._load(archive, rows)
    names = dict(sorted((row[1], row[2]) for row in splits["emoji"]["test"]))
    tokens = pretrain.tokenize([f"a photo of a {name}." for name in names.values()])
    with torch.no_grad():
        text = torch.nn.functional.normalize(emoji_clip.encode_text(tokens), dim=-1)
        hits = (emoji_clip.encode_image(images) @ text.T).argmax(1) == labels
    assert 100 * hits.float().mean() > least  # chance is 2.7
