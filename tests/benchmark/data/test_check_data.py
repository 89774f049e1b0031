"""Tests of `python -m benchmark check-data` on small data sets."""

import json

import pytest
from PIL import Image

from benchmark.__main__ import main
from benchmark.data.check_data import checked_datasets
from benchmark.protocols.configs import GROUPS

EUROSAT = ("River", "Forest")


def eurosat(root, each=10):
    """Write two classes of the raw EuroSAT with `each` images, and return their split file."""
    rows = []
    for label, name in enumerate(EUROSAT):
        (root / "eurosat" / "2750" / name).mkdir(parents=True)
        for i in range(each):
            path = f"{name}/{name}_{i}.jpg"
            Image.new("RGB", (4, 4)).save(root / "eurosat" / "2750" / path)
            rows.append([path, label, name])
    split = {"train": rows[::2], "val": rows[1::4], "test": rows[3::4]}
    file = root / "eurosat" / "split_zhou_EuroSAT.json"
    file.write_text(json.dumps(split))
    return file


@pytest.fixture
def small(monkeypatch):
    """Set the published counts of EuroSAT to two classes and 10 + 5 + 5 images."""
    cls = checked_datasets()["eurosat"]
    monkeypatch.setattr(cls, "expected", type(cls.expected)(2, 10, 5, 5))


def check(capsys, *words):
    """Run the command; return its exit code, cells of the table by data set, and whole output."""
    code = main(["check-data", *map(str, words)])
    text = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines()[2:] if line}
    return code, rows, text


# Classes, and images for training, validation and test.
PUBLISHED = {
    "imagenet": (1000, 1281167, None, 50000),
    "caltech101": (100, 4128, 1649, 2465),
    "oxford_pets": (37, 2944, 736, 3669),
    "stanford_cars": (196, 6509, 1635, 8041),
    "oxford_flowers": (102, 4093, 1633, 2463),
    "food101": (101, 50500, 20200, 30300),
    "fgvc_aircraft": (100, 3334, 3333, 3333),
    "sun397": (397, 15880, 3970, 19850),
    "ucf101": (101, 7639, 1898, 3783),
    "dtd": (47, 2820, 1128, 1692),
    "eurosat": (10, 13500, 5400, 8100),
    "imagenetv2": (1000, None, None, 10000),
    "imagenet_sketch": (1000, None, None, 50889),
    "imagenet_a": (200, None, None, 7500),
    "imagenet_r": (200, None, None, 30000),
    "btmri": (4, 2854, 1141, 1717),
    "busi": (3, 389, 155, 236),
    "chmnist": (8, 2496, 1000, 1504),
    "covid": (4, 10582, 4232, 6351),
    "ctkidney": (4, 6221, 2487, 3738),
    "dermamnist": (7, 7006, 1003, 2005),
    "kneexray": (5, 5778, 826, 1656),
    "kvasir": (8, 2000, 800, 1200),
    "lungcolon": (5, 12500, 5000, 7500),
    "octmnist": (4, 97477, 10832, 1000),
    "retina": (4, 2108, 841, 1268),
    "voc2007": (20, 5011, 0, 4952),
    "coco2014": (80, 82783, 0, 40504),
}


def test_all_fifteen_have_the_published_counts():
    assert {name: tuple(cls.expected) for name, cls in checked_datasets().items()} == PUBLISHED


def test_finding_none_of_the_fifteen_is_an_error(tmp_path, capsys):
    code, rows, text = check(capsys, "--root", tmp_path)
    assert code == 1
    unless_named = {*GROUPS["medical"], "voc2007", "coco2014"}
    assert set(checked_datasets()) - set(rows) == unless_named
    assert rows["dtd"] == ["no", "(47)", "(2,820)", "(1,128)", "(1,692)"]
    assert rows["imagenet_r"] == ["no", "(200)", "-", "-", "(30,000)"]
    assert text.rstrip().endswith(f"0 of 15 found below {tmp_path}")


def test_a_complete_data_set_passes(small, tmp_path, capsys):
    eurosat(tmp_path)
    code, rows, text = check(capsys, "--root", tmp_path)
    assert code == 0
    assert rows["eurosat"] == ["yes", "2", "10", "5", "5"]
    assert text.rstrip().endswith("1 of 15 found below " + f"{tmp_path}, nothing is wrong")


def test_names_choose_the_data_sets_and_data_the_root(small, tmp_path, capsys, monkeypatch):
    eurosat(tmp_path)
    monkeypatch.setenv("DATA", str(tmp_path))
    code, rows, _ = check(capsys, "eurosat", "dtd")
    assert code == 0
    assert rows["eurosat"][0] == "yes" and rows["dtd"][0] == "no" and "sun397" not in rows


def test_counts_that_differ_are_shown_next_to_the_published_ones(tmp_path, capsys):
    eurosat(tmp_path)
    code, rows, text = check(capsys, "--root", tmp_path, "eurosat")
    assert code == 1
    assert rows["eurosat"][:5] == ["yes", "2", "(10)", "10", "(13,500)"]
    assert "- eurosat: 2 classes instead of 10" in text


def test_the_first_problem_of_a_data_set_is_reported(small, tmp_path, capsys):
    file = eurosat(tmp_path)

    def wrong(words):
        code, _, text = check(capsys, "--root", tmp_path, "eurosat", "dtd")
        assert code == 1
        (line,) = [line for line in text.splitlines() if line.startswith("- ")]
        assert line.startswith("- eurosat: ") and words in line

    image = tmp_path / "eurosat" / "2750" / "River" / "River_3.jpg"
    content = image.read_bytes()
    image.unlink()
    wrong(f"'{image}', which does not exist (1 of 20 images are missing)")
    image.write_bytes(content)

    split = json.loads(file.read_text())
    file.write_text(json.dumps(split | {"test": split["test"][:-1]}))
    wrong("4 test images instead of 5")
    file.write_text(json.dumps(split | {"note": "made by hand"}))
    wrong("is made by hand")
    rows = [[path, 1 - label, name] for path, label, name in split["test"]]
    file.write_text(json.dumps(split | {"test": rows}))
    wrong("gives 5 images for validation or testing another name")
    file.write_text("{")
    wrong("is not a split file")
    (tmp_path / "eurosat" / "2750").rename(tmp_path / "eurosat" / "images")
    file.write_text(json.dumps(split))
    wrong("which does not exist (20 of 20 images are missing)")


def test_without_the_split_file_the_raw_images_are_counted_and_nothing_is_written(
    small, tmp_path, capsys, monkeypatch
):
    cls = checked_datasets()["eurosat"]
    monkeypatch.setattr(cls, "expected", type(cls.expected)(2, 10, 4, 6))
    file = eurosat(tmp_path)
    file.unlink()
    code, rows, text = check(capsys, "--root", tmp_path, "eurosat")
    assert code == 1
    assert rows["eurosat"] == ["yes", "2", "10", "4", "6"]
    assert "split_zhou_EuroSAT.json is missing" in text
    assert not file.exists()


def test_a_missing_class_folder_is_named(tmp_path, capsys):
    folder = tmp_path / "imagenet-sketch"
    (folder / "images" / "n01").mkdir(parents=True)
    (folder / "classnames.txt").write_text("n01 ant\nn02 bee\n")
    code, _, text = check(capsys, "--root", tmp_path)
    assert code == 1
    assert "- imagenet_sketch: " in text and "class folders (n02)" in text


def test_bad_input_is_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("DATA", raising=False)

    def refused(words, *request):
        assert main(["check-data", *request]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1

    refused("give --root that of")
    refused("nowhere' is not a folder", "--root", str(tmp_path / "nowhere"))
    refused("did you mean 'eurosat'", "--root", str(tmp_path), "eurosatt")
