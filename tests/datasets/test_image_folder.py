"""ImageFolder: a user's own images in class folders."""

import json
import os
import shutil

import pytest
from dassl.utils import DataError, read_image
from own_images import counts, fill, load
from PIL import Image

from trainers.prompting.errors import UserError
from trainers.prompting.images import class_folders as files


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


@pytest.mark.parametrize(
    "text, words",
    [
        ("ant Ameise\n", "no name for 1 of the 2 class folders .*bee"),
        ("ant Ameise\nbee\n", "no class name after 'bee'"),
        ("ant Ameise\nbee Biene\ncat Katze", "lacks 1 of its 3 class folders .cat"),
        ("ant \xff", "cannot be read"),
    ],
)
def test_class_names_that_do_not_fit_are_reported(text, words, tmp_path):
    fill(tmp_path, ant=2, bee=2)
    (tmp_path / "classnames.txt").write_text(text, encoding="latin1")
    with pytest.raises(UserError, match=words) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


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
    assert counts(load(tmp_path)) == (4, 2, 6)
    said = capsys.readouterr().out
    assert (
        "3 files and folders in the class folders of" in said and "01, 02.jpg_large, more" in said
    )
    assert "1 images in " in said and "as they are in no class folder: loose.png" in said
    assert "has parts, so that other folders are left out: spare" in said
    assert f"Note: '{tmp_path}/classes.txt' is not read: class names belong in " in said


def test_an_unknown_home_is_no_folder():
    with pytest.raises(UserError, match="but '~no-such-user/x' is not a folder"):
        load("~no-such-user/x")


def test_one_name_for_two_folders_is_reported(tmp_path, capsys):
    fill(tmp_path, red_fox=4, **{"red fox": 4})
    assert load(tmp_path).classnames == ["red fox", "red fox"]
    said = "one name, so that only a method with something for each class can distinguish them: red"
    assert said in capsys.readouterr().out


def test_names_that_differ_only_in_case_are_reported(tmp_path, capsys):
    fill(tmp_path, Cat=4, cat=4, dog=4)
    assert load(tmp_path).classnames == ["Cat", "cat", "dog"]
    assert (
        "only a method with something for each class can distinguish them: Cat, cat\n"
        in capsys.readouterr().out
    )


def test_an_unusable_folder_is_one_sentence(tmp_path):
    def refused(words, root=tmp_path):
        with pytest.raises(UserError, match=words) as caught:
            load(root)
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2

    refused("'' is not a folder", root="")
    refused("nowhere' is not a folder", root=tmp_path / "nowhere")
    refused(f"'{tmp_path}' has no class folders")
    for name in "ab":
        fill(tmp_path / "single", **{name: 1})
    refused("single' has a single image, and so no test image", root=tmp_path / "single")
    fill(tmp_path / "train", ant=2, bee=2)
    refused("has train/ but no test/")
    fill(tmp_path / "test", ant=1, cat=1)
    refused("'bee' is only in train/, 'cat' is only in test/")
    (tmp_path / "test" / "cat").rename(tmp_path / "test" / "bee")
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "test" / "dog").mkdir()
    refused("train/dog' has no images")


def test_an_empty_image_is_named(tmp_path):
    fill(tmp_path, ant=4, bee=4)
    (tmp_path / "ant" / "ant 00.png").write_bytes(b"")
    dataset = load(tmp_path)
    (path,) = [
        item.impath
        for part in (dataset.train_x, dataset.val, dataset.test)
        for item in part
        if item.impath.endswith("ant 00.png")
    ]
    with pytest.raises(DataError, match=r"ant 00\.png' \(it is empty\)"):
        read_image(path)


def test_a_class_whose_name_is_not_utf_8_is_refused(tmp_path):
    """A prompt cannot contain such a name."""
    fill(tmp_path, **{"ant": 4, os.fsdecode(b"caf\xe9"): 4})
    with pytest.raises(
        UserError, match="class folder 'caf\udce9', whose name is not UTF-8: rename"
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    "one, other",
    [("caf\u00e9", "cafe\u0301"), ("cat &amp; dog", "cat & dog"), ("\ufb01sh", "fish"),
     ("half-timbered", "half - timbered")],
    ids=["accents", "entities", "ligatures", "spaces"],
)  # fmt: skip
def test_names_that_clip_reads_alike_are_reported(tmp_path, capsys, one, other):
    fill(tmp_path, ant=4, bee=4, cow=4)
    lines = f"ant {one}\nbee {other}\ncow cow"
    (tmp_path / "classnames.txt").write_text(lines, encoding="utf8")
    load(tmp_path)
    said = f"only a method with something for each class can distinguish them: {one}, {other}\n"
    assert said in capsys.readouterr().out


def test_other_names_of_val_are_refused(tmp_path):
    for part in ("train", "valid", "test"):
        fill(tmp_path / part, ant=3, bee=3)
    with pytest.raises(UserError, match=r"has valid/, but .* are read from val/: rename it"):
        load(tmp_path)


def test_parts_without_class_folders_are_not_classes(tmp_path):
    for name in ("train", "test"):
        fill(tmp_path / "lower", **{name: 3})
        fill(tmp_path / "upper" / name.title(), ant=3, bee=3)
    for folder in ("lower", "upper"):
        with pytest.raises(UserError, match="parts are called train, val and test, and have class"):
            load(tmp_path / folder)


def test_a_class_folder_that_is_a_broken_link_is_refused(tmp_path):
    fill(tmp_path, ant=3, bee=3)
    (tmp_path / "cow").symlink_to("nowhere")
    with pytest.raises(UserError, match="has the link 'cow', which leads nowhere: restore"):
        load(tmp_path)


@pytest.mark.parametrize("odd", ["a pipe", "a folder", "a broken link"])
def test_what_is_not_a_file_is_refused(tmp_path, odd, deadline):
    fill(tmp_path, ant=4, bee=4)
    path = tmp_path / "ant" / "odd.png"
    make = {"a pipe": os.mkfifo, "a folder": os.mkdir}
    make.get(odd, lambda path: path.symlink_to("nowhere"))(path)
    with pytest.raises(
        UserError, match=r"image '.*odd\.png' cannot be read \(.*: restore or remove"
    ):
        load(tmp_path)


@pytest.mark.parametrize("kept", ["[]", '{"ant": 5}', "[" * 200_000], ids=["list", "int", "deep"])
def test_a_damaged_list_of_files_is_made_again(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(files, "MANY", 1)
    fill(tmp_path / "images", ant=4)
    path = tmp_path / "images.files.json"
    path.write_text(kept)
    assert len(files.file_names(tmp_path / "images", ["ant"])["ant"]) == 4
    assert json.loads(path.read_text()).keys() == {"ant"}


def test_a_pipe_in_place_of_the_class_names_is_reported(tmp_path, deadline):
    fill(tmp_path, ant=4, bee=4)
    os.mkfifo(tmp_path / "classnames.txt")
    with pytest.raises(UserError, match="classnames.txt', which names the classes, cannot be read"):
        load(tmp_path)
