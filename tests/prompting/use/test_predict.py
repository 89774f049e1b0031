"""Tests of the images that predict takes, and of how it prints unusual file names."""

import csv
import io
import json
import os
import sys

import pytest
from PIL import Image

from benchmark.__main__ import main
from trainers.prompting.use.commands import predict as module

HOSTILE = b"\xff\x1b[2J.png"  # not UTF-8; would clear a terminal


@pytest.fixture
def predict(runs, capsys):
    """A function that runs predict, checks its exit code and returns its output."""

    def call(*words, code=0):
        assert main(["predict", "--model-dir", str(runs / "CoOp"), *map(str, words)]) == code
        return capsys.readouterr()

    return call


def paint(path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path, **options)
    return path


def test_a_photo_taken_by_a_phone_is_read_as_in_training(predict, tmp_path):
    """Such a photo has a preview or a second exposure as a second frame."""
    second = Image.new("RGB", (8, 8), "blue")
    photo = paint(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert Image.open(photo).n_frames == 2
    plain = paint(tmp_path / "b.jpg")
    first, other = predict(photo, plain).out.splitlines()
    assert first.removeprefix(str(photo)) == other.removeprefix(str(plain))


def test_transparent_images_are_counted(predict, tmp_path):
    paint(tmp_path / "a.png")
    Image.new("RGBA", (8, 8)).save(tmp_path / "b.png")
    assert f"Note: 1 of 2 images are transparent, such as '{tmp_path / 'b.png'}': " in (
        predict(tmp_path).err
    )


def test_linked_folders_are_read(predict, tmp_path):
    inside = paint(tmp_path / "elsewhere" / "a.png")
    asked = tmp_path / "asked"
    asked.mkdir()
    (asked / "link").symlink_to(inside.parent)
    (asked / "b.png").symlink_to("nowhere")
    told = predict(asked, code=1)
    assert [line.split(": ")[0] for line in told.out.splitlines()] == [f"{asked}/link/a.png"]
    assert f"skipped: '{asked}/b.png': FileNotFoundError" in told.err


def test_hidden_files_and_folders_are_left_out(predict, tmp_path):
    for name in ("day/a.png", "day/._a.png", ".thumbs/a.png", "__MACOSX/day/a.png"):
        paint(tmp_path / name)
    told = predict(tmp_path)
    assert [line.split(": ")[0] for line in told.out.splitlines()] == [f"{tmp_path}/day/a.png"]


def test_an_unreadable_folder_is_reported(predict, tmp_path, monkeypatch):
    image, shut, scandir = paint(tmp_path / "a.png"), tmp_path / "shut", os.scandir
    shut.mkdir()

    def refuse(path):
        if os.fspath(path) == os.fspath(shut):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    told = predict(tmp_path, code=1)
    assert f"skipped: '{shut}' cannot be read (Permission denied)\n" in told.err
    assert told.out.startswith(f"{image}: ")


@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_unusual_file_names_are_harmless(predict, tmp_path, form, monkeypatch):
    """They do not clear a terminal or stop the other images."""
    image = paint(tmp_path / "a.png")
    (tmp_path / os.fsdecode(HOSTILE)).write_bytes(image.read_bytes())
    (tmp_path / os.fsdecode(b"\xfe.png")).touch()
    monkeypatch.chdir(tmp_path)
    names = [os.fsdecode(HOSTILE), "a.png", os.fsdecode(b"\xfe.png")]
    told = predict(*names, "--format", form, "--top", 1, code=1)
    assert "\x1b" not in told.out + told.err
    assert "'\\udcfe.png': it is empty" in told.err
    if form == "csv":
        first, second = (row["image"] for row in csv.DictReader(io.StringIO(told.out)))
    elif form == "json":
        first, second = (found["image"] for found in json.loads(told.out))
    else:
        first, second = (line.split(": ")[0] for line in told.out.splitlines())
    raw = HOSTILE.decode(errors="surrogateescape")
    assert first == (raw if form == "json" else "\\udcff\\x1b[2J.png")
    assert second == "a.png"


@pytest.mark.parametrize("form", ["text", "csv", "json"])
def test_names_of_another_encoding_are_printed_on_an_ascii_console(
    predict, tmp_path, monkeypatch, form
):
    image = paint(tmp_path / "é.png")
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(image.read_bytes())
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(console, encoding="ascii"))
    predict(tmp_path, "--format", form)
    out = console.getvalue().decode("ascii")
    assert "\\xe9.png" in out or "\\u00e9.png" in out
    if form == "json":
        files = {os.path.basename(os.fsencode(found["image"])) for found in json.loads(out)}
        assert files == {"é.png".encode(), b"\xff.png"}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("gone.png", "there is no image or folder 'gone.png': check the path"),
        ("\x1b[2J", "there is no image or folder '\\x1b[2J': check the path"),
    ],
)
def test_arguments_that_name_no_image_are_refused(predict, tmp_path, monkeypatch, word, sentence):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "a.png")
    told = predict(word, code=2)
    assert sentence in told.err and told.err.count("\n") == 1 and not told.out


def test_a_device_that_is_not_here_is_refused_before_the_run_is_loaded(tmp_path, capsys):
    image = str(paint(tmp_path / "a.png"))
    assert main(["predict", "--model-dir", "no/run", image, "--device", "cuda:99"]) == 2
    err = capsys.readouterr().err
    assert "predict: PyTorch cannot use the device 'cuda:99' here: give cpu" in err
    assert err.count("\n") == 1


def test_one_batch_is_read_ahead():
    done = []

    class Pool:
        def map(self, read, batch):
            done.append(("read", batch))
            return map(read, batch)

    for batch, answers in module.read_ahead(Pool(), str, [1, 2, 3, 4, 5], 2):
        assert list(answers) == list(map(str, batch))
        done.append(("use", batch))
    assert done == [
        ("read", [1, 2]), ("read", [3, 4]), ("use", [1, 2]), ("read", [5]), ("use", [3, 4]),
        ("use", [5]),
    ]  # fmt: skip
