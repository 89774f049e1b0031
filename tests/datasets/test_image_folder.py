"""ImageFolder: a user's own images in class folders."""

import json
import os
import re
import shutil

import pytest
from dassl.utils import DataError, read_image
from own_images import counts, fill, load, read
from PIL import Image

from trainers.prompting import UserError
from trainers.prompting.images.class_folders import file_names


def names(items):
    return [item.impath.rpartition("/")[2] for item in items]


@pytest.mark.parametrize(
    "number, parts",
    [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (2, 0, 1)), (4, (2, 1, 1)), (7, (4, 1, 2)),
     (10, (5, 2, 3)), (40, (20, 8, 12))],
)  # fmt: skip
def test_class_folders_are_divided_by_a_fixed_seed(number, parts, tmp_path, capsys):
    fill(tmp_path, red_fox=number, bee=40)
    dataset = load(tmp_path)
    assert dataset.classnames == ["bee", "red fox"]
    assert counts(dataset) == tuple(n + m for n, m in zip(parts, (20, 8, 12), strict=True))
    everything = names(dataset.train_x) + names(dataset.val) + names(dataset.test)
    assert len(set(everything)) == number + 40
    assert names(load(tmp_path).train_x) == names(dataset.train_x)
    least, most = sorted((parts[0], 20))
    said = f"{20 + parts[0]} images for training ({least} to {most} of a class), {8 + parts[1]} for"
    assert said in capsys.readouterr().out


def test_three_parts_are_taken_as_they_are(tmp_path, capsys):
    for part, number in (("train", 3), ("val", 2), ("test", 4)):
        fill(tmp_path / part, bee=number, ant=number)
    dataset = load(tmp_path, shots=2)
    assert counts(dataset) == (4, 4, 8)
    assert dataset.classnames == ["ant", "bee"]
    assert all("/test/" in item.impath for item in dataset.test)
    assert "chance" not in capsys.readouterr().out


def test_without_val_a_fifth_of_train_is_held_out(tmp_path, capsys):
    fill(tmp_path / "train", bee=10, ant=5)
    fill(tmp_path / "test", bee=3, ant=3)
    dataset = load(tmp_path)
    assert counts(dataset) == (12, 3, 6)
    assert not set(names(dataset.train_x)) & set(names(dataset.val))
    assert "has no val/: 20% of train/" in capsys.readouterr().out


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path, train=4, plane=4)
    assert load(tmp_path).classnames == ["plane", "train"]


def test_names_come_from_a_file(tmp_path):
    fill(tmp_path, **{"n01": 4, "n02": 4, "my cat": 4})
    lines = ["n02 crème brûlée", "my cat Herr Müllers Katze", "n01 寿司", ""]
    for space in " \t":
        text = "\n".join(lines).replace(" Herr", f"{space}Herr").replace("n01 ", f"n01{space}")
        (tmp_path / "classnames.txt").write_text("\ufeff" + text, encoding="utf8")
        assert load(tmp_path).classnames == ["Herr Müllers Katze", "寿司", "crème brûlée"]


def test_other_files_are_skipped(tmp_path):
    fill(tmp_path, ant=4, bee=4)
    for name in (".hidden.png", "._ant 00.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "ant" / name).write_text("no image")
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").touch()
    Image.new("RGB", (4, 4)).save(tmp_path / "bee" / "LOUD.JPEG", "JPEG")
    dataset = load(tmp_path)
    assert (dataset.classnames, sum(counts(dataset))) == (["ant", "bee"], 9)


def test_images_in_other_formats_are_reported(tmp_path, capsys):
    fill(tmp_path, ant=4, bee=4)
    for name in ("a.GIF", "b.jp2"):
        (tmp_path / "bee" / name).touch()
    assert sum(counts(load(tmp_path))) == 8
    said = capsys.readouterr().out
    assert f"Note: 2 images in '{tmp_path}' are left out, as their formats are not read" in said
    assert "a.GIF" in said


def test_what_is_left_out_is_reported(tmp_path, capsys):
    for part in ("train", "test"):
        fill(tmp_path / part, ant=3, bee=3)
    fill(tmp_path / "train" / "bee", more=1)
    fill(tmp_path, spare=2)
    image = tmp_path / "train" / "ant" / "ant 00.png"
    for place in ("train/bee/01", "train/bee/02.jpg_large", "train/loose.png"):
        shutil.copy(image, tmp_path / place)
    (tmp_path / "train" / "classnames.txt").write_text("ant Ameise")
    (tmp_path / "classes.txt").write_text("ant Ameise")
    assert counts(load(tmp_path)) == (5, 2, 6)
    said = capsys.readouterr().out
    assert "2 files and folders in the class folders of" in said and ": 01, 02.jpg_large\n" in said
    assert "1 images in " in said and "as they are in no class folder: loose.png" in said
    assert "has parts, so that other folders are left out: spare" in said
    assert f"Note: '{tmp_path}/classes.txt' is not read: class names belong in " in said


TRAINING = {"train/ant": 2, "train/bee": 2}
REFUSED = {  # class folders and numbers of images in them, and what is said
    "no class folders": ({}, "has no class folders"),
    "single images": ({"a": 1, "b": 1}, "has a single image or group"),
    "no test": (TRAINING, "has train/ but no test/"),
    "other classes": (TRAINING | {"test/ant": 1, "test/cat": 1},
                      "'bee' is only in train/, 'cat' is only in test/"),
    "an empty class": (TRAINING | {"train/dog": 0, "test/ant": 1, "test/bee": 1, "test/dog": 0},
                       "train/dog' has no images"),
    "valid": (TRAINING | {"valid/ant": 2, "test/ant": 2}, "has valid/, but .* read from val/: ren"),
    "images in parts": ({"train": 3, "test": 3}, "parts are called train, val and test, and have"),
    "capitals": ({"Train/ant": 3, "Test/ant": 3}, "parts are called train, val and test, and have"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_unusable_folder_is_one_sentence(tmp_path, case):
    folders, words = REFUSED[case]
    fill(tmp_path, **folders)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize("root", ["", "nowhere", "~no-such-user/x"])
def test_what_is_no_folder_is_refused(root):
    with pytest.raises(UserError, match=f"'{root}' is not a folder"):
        load(root)


def names_are(text):
    return lambda folder: (folder / "classnames.txt").write_text(text, encoding="latin1")


def link(name):
    return lambda folder: (folder / name).symlink_to("nowhere")


ODD, UNREAD = "ant/odd.png", r"image '.*odd\.png' cannot be read \(.*: restore or remove"
SPOILT = {  # what is done to the folder of ants and bees, and what is said
    "a name too few": (names_are("ant Ameise\n"), "no name for 1 of the 2 class folders .*bee"),
    "no name": (names_are("ant Ameise\nbee\n"), "no class name after 'bee'"),
    "a folder too few": (names_are("ant A\nbee B\ncat K"), "lacks 1 of its 3 class folders .cat"),
    "not UTF-8": (names_are("ant \xff"), "cannot be read"),
    "a class that leads nowhere": (link("cow"), "has the link 'cow', which leads nowhere: restore"),
    "an image that leads nowhere": (link(ODD), UNREAD),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_odd_files_and_names_are_one_sentence(tmp_path, case):
    fill(tmp_path, ant=4, bee=4)
    spoil, words = SPOILT[case]
    spoil(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def every(dataset):
    return [*dataset.train_x, *dataset.val, *dataset.test]


def test_subfolders_of_a_class_are_read_but_hidden_ones(tmp_path):
    fill(tmp_path, **{"ant": 1, "ant/2021/summer.png": 3, "ant/.thumbs": 1, "bee/2022": 4})
    fill(tmp_path, **{"__MACOSX/ant": 1, "ant/__MACOSX": 1, ".cache/bee": 1})
    dataset = load(tmp_path)
    found = sorted(item.impath.removeprefix(f"{tmp_path}/") for item in every(dataset))
    of_ants = [f"ant/2021/summer.png/summer.png {i:02}.png" for i in range(3)]
    assert found == [*of_ants, "ant/ant 00.png", *(f"bee/2022/2022 {i:02}.png" for i in range(4))]
    assert dataset.classnames == ["ant", "bee"]


@pytest.mark.parametrize("parts", [False, True])
def test_where_the_classes_are_is_asked_if_both_levels_may_be_meant(parts, tmp_path):
    fill(tmp_path, **{"train/2021/ant": 2, "train/2022/ant": 2, "train/2022/bee": 3})
    fill(tmp_path, **{"test/2021/ant": 2, "test/2022/bee": 1})
    root = tmp_path if parts else tmp_path / "train"
    said = (
        f"'{tmp_path}/train' has images only in folders within its folders, such as '2021/ant/ant "
        "00.png': say where its classes are, with --classes-at 1 ('2021') or 2 ('ant'; in a "
        "training, DATASET.CLASSES_AT)"
    )
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        load(root)
    by_year, by_kind = (read("ImageFolder", root, CLASSES_AT=at) for at in (1, 2))
    assert by_year.classnames == ["2021", "2022"] and by_kind.classnames == ["ant", "bee"]
    of_ants = [item.impath for item in every(by_kind) if item.classname == "ant"]
    assert len(of_ants) == 4 + 2 * parts and len(every(by_year)) == 7 + 3 * parts


def test_what_lies_above_classes_at_the_second_level_is_in_no_class(tmp_path, capsys):
    fill(tmp_path, **{"2021": 1, "2021/ant": 4, "2022/bee": 4, "2022/unlabelled": 2})
    shutil.copy(tmp_path / "2021" / "2021 00.png", tmp_path / "2022" / "loose.png")
    assert len(every(read("ImageFolder", tmp_path, CLASSES_AT=2))) == 8
    said = "2 images in '.*' are left out, as they are in no class folder: 2021/2021 00.png, 2022/l"
    assert re.search(said, capsys.readouterr().out)
    assert load(tmp_path).classnames == ["2021", "2022"]  # which has an image of its own


def test_an_empty_image_is_named(tmp_path):
    fill(tmp_path, ant=4, bee=4)
    (tmp_path / "ant" / "ant 00.png").write_bytes(b"")
    dataset = load(tmp_path)
    (path,) = [x.impath for x in every(dataset) if x.impath.endswith("ant 00.png")]
    with pytest.raises(DataError, match=r"ant 00\.png' \(it is empty\)"):
        read_image(path)


@pytest.mark.parametrize(
    "one, other",
    [("red fox", "red fox"), ("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("\ufb01sh", "fish"),
     ("cat &amp; dog", "cat & dog"), ("half-timbered", "half - timbered")],
    ids=["same", "case", "accents", "ligatures", "entities", "spaces"],
)  # fmt: skip
def test_names_that_clip_reads_alike_are_reported(tmp_path, capsys, one, other):
    fill(tmp_path, ant=4, bee=4, cow=4)
    lines = f"ant {one}\nbee {other}\ncow cow"
    (tmp_path / "classnames.txt").write_text(lines, encoding="utf8")
    load(tmp_path)
    both = one if one == other else f"{one}, {other}"
    said = f"only a method with something for each class can distinguish them: {both}\n"
    assert said in capsys.readouterr().out


# ---- the cache of file names: a folder is listed again only after it has changed


@pytest.fixture
def parent(tmp_path):
    """Two class folders, last changed a minute ago."""
    parent = tmp_path / "train"
    for name in ("n01.jpg", "n02.jpg"):
        for folder in ("n0", "n1"):
            (parent / folder).mkdir(parents=True, exist_ok=True)
            (parent / folder / name).touch()
    for folder in parent.iterdir():
        age(folder, 60)
    return parent


def age(folder, seconds):
    then = folder.stat().st_mtime - seconds
    os.utime(folder, (then, then))


def listed(parent, monkeypatch) -> list[str]:
    """Return the folders that a call of `file_names` lists."""
    seen, scandir = [], os.scandir
    monkeypatch.setattr(
        os, "scandir", lambda path: seen.append(os.path.relpath(path, parent)) or scandir(path)
    )
    found = file_names(parent, ["n0", "n1"], many=3, deep=True)
    monkeypatch.undo()
    assert {name: sorted(names) for name, names in found.items()} == {
        folder.name: sorted(str(x.relative_to(folder)) for x in folder.rglob("*.jpg"))
        for folder in parent.iterdir()
    }
    return seen


def test_a_second_run_lists_nothing_and_a_changed_folder_again(parent, monkeypatch):
    assert listed(parent, monkeypatch) == ["n0", "n1"]
    assert listed(parent, monkeypatch) == []
    (parent / "n1" / "n03.jpg").touch()
    age(parent / "n1", 30)
    assert listed(parent, monkeypatch) == ["n1"] and listed(parent, monkeypatch) == []


def test_a_subfolder_that_has_changed_is_listed_again(parent, monkeypatch):
    (parent / "n0" / "more").mkdir()
    age(parent / "n0" / "more", 60)
    age(parent / "n0", 60)
    assert listed(parent, monkeypatch) == ["n0", "n0/more", "n1"]
    (parent / "n0" / "more" / "n03.jpg").touch()
    age(parent / "n0" / "more", 30)
    assert listed(parent, monkeypatch) == ["n0/more"] and listed(parent, monkeypatch) == []


def test_a_folder_that_changes_right_now_is_not_trusted(parent, monkeypatch):
    (parent / "n0" / "n03.jpg").touch()
    age(parent / "n0", -60)  # a slow machine does not make it old
    assert listed(parent, monkeypatch) == ["n0", "n1"]
    assert listed(parent, monkeypatch) == ["n0"]


def test_a_damaged_list_and_few_files(parent, monkeypatch):
    kept = parent.with_name("train.files.json")
    kept.write_text("{")
    assert listed(parent, monkeypatch) == ["n0", "n1"] and json.loads(kept.read_text())
    kept.unlink()
    file_names(parent, ["n0", "n1"], many=100)
    assert not kept.exists()
