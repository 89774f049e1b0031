"""The cache of file names: a folder is listed again only after it has changed."""

import json
import os

import pytest

from trainers.prompting.images import class_folders as files
from trainers.prompting.images.class_folders import file_names


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """Two class folders, last changed a minute ago; a lower MANY makes few files count as many."""
    monkeypatch.setattr(files, "MANY", 3)
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
    seen, listdir = [], os.listdir
    monkeypatch.setattr(
        os, "listdir", lambda path: seen.append(os.path.basename(path)) or listdir(path)
    )
    found = file_names(parent, ["n0", "n1"])
    monkeypatch.undo()
    monkeypatch.setattr(files, "MANY", 3)
    assert {name: sorted(names) for name, names in found.items()} == {
        folder.name: sorted(path.name for path in folder.iterdir()) for folder in parent.iterdir()
    }
    return seen


def test_a_second_run_lists_nothing_and_a_changed_folder_again(parent, monkeypatch):
    assert listed(parent, monkeypatch) == ["n0", "n1"]
    assert listed(parent, monkeypatch) == []
    (parent / "n1" / "n03.jpg").touch()
    age(parent / "n1", 30)
    assert listed(parent, monkeypatch) == ["n1"] and listed(parent, monkeypatch) == []


def test_a_folder_that_changes_right_now_is_not_trusted(parent, monkeypatch):
    (parent / "n0" / "n03.jpg").touch()
    assert listed(parent, monkeypatch) == ["n0", "n1"]
    assert listed(parent, monkeypatch) == ["n0"]


def test_a_damaged_list_and_few_files(parent, monkeypatch):
    kept = parent.with_name("train.files.json")
    kept.write_text("{")
    assert listed(parent, monkeypatch) == ["n0", "n1"] and json.loads(kept.read_text())
    kept.unlink()
    monkeypatch.setattr(files, "MANY", 100)
    file_names(parent, ["n0", "n1"])
    assert not kept.exists()
