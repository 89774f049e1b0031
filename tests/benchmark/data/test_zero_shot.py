"""Tests of `python -m benchmark check-data --zero-shot`, with a small EuroSAT and the tiny CLIP."""

import json

import numpy as np
import pytest
from paths import GOLDEN
from PIL import Image

import train
from benchmark.__main__ import main
from benchmark.data import zero_shot
from benchmark.data.check_data import checked_datasets
from benchmark.protocols.configs import GROUPS
from benchmark.report import published
from trainers.prompting import UserError
from trainers.prompting.encoders.descriptions import Asked

CLIP = str(GOLDEN / "tiny_clip_seed0.safetensors")
NAMES = ["annual crop", "forest", "river", "road", "sea"]  # three are base classes
EACH = 40  # images of a class, half of them for test
RIGHT: list[float] = []  # accuracies of the unchanged data, computed once


def write_split(root, names):
    rows = [[f"{k}_{i}.png", k, names[k]] for k in range(len(names)) for i in range(EACH)]
    split = {"train": rows[::4], "val": rows[1::4], "test": rows[2::4] + rows[3::4]}
    (root / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(split))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Write images of coloured squares, which the tiny CLIP does not always classify rightly."""
    root = tmp_path_factory.mktemp("data")
    (root / "eurosat" / "2750").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(len(NAMES)):
        for i in range(EACH):
            pixels = rng.integers(0, 255, (9, 9, 3)).astype("uint8")
            image = Image.fromarray(pixels).resize((50, 50), Image.Resampling.NEAREST)
            image.save(root / "eurosat" / "2750" / f"{k}_{i}.png")
    return root


@pytest.fixture
def eurosat(pictures, monkeypatch):
    """Make the small data set count as the published EuroSAT."""
    write_split(pictures, NAMES)
    cls, half = checked_datasets()["eurosat"], EACH * len(NAMES) // 4
    monkeypatch.setattr(cls, "expected", type(cls.expected)(len(NAMES), half, half, 2 * half))
    monkeypatch.setattr("benchmark.data.check_data.BACKBONE", CLIP)
    return pictures


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """A function that replaces the published numbers."""

    def put(base, new, every):
        for name, columns in {
            "base2new": {"base": base, "new": new, "h": 0},
            "cross_dataset": {"accuracy": every},
        }.items():
            head = f"method,dataset,{','.join(columns)},kind,source\n"
            values = ",".join(f"{value:.2f}" for value in columns.values())
            row = f"CLIP,eurosat,{values},plain,made up\n"
            (tmp_path / f"{name}.csv").write_text(head + row)
        monkeypatch.setattr(published, "FOLDER", tmp_path)
        published.numbers.cache_clear()

    yield put
    published.numbers.cache_clear()


def check(capsys, root, *more):
    code = main(["check-data", "--zero-shot", "eurosat", "--root", str(root), *more])
    captured = capsys.readouterr()
    row = [line for line in captured.out.splitlines() if line.startswith("eurosat")]
    return code, row[-1].split() if row else [], captured.out, captured.err


def accuracy_of_a_run(root, output, subset, *more):
    """Return the accuracy of a ZeroshotCLIP run of `train.py`."""
    words = ["--root", root, "--seed", 1, "--trainer", "ZeroshotCLIP", "--backbone", CLIP,
             "--output-dir", output / subset, "DATASET.NAME", "EuroSAT", "INPUT.SIZE", "(32, 32)",
             "INPUT.TRANSFORMS", "['normalize']", "DATASET.SUBSAMPLE_CLASSES", subset,
             "DATALOADER.NUM_WORKERS", 0, *more]  # fmt: skip
    assert train.run(list(map(str, words))) == 0
    return json.loads((output / subset / "results.json").read_text())["accuracy"]


def test_accuracies_are_those_of_a_run_and_agree_where_they_are_published(
    eurosat, printed, capsys, tmp_path
):
    expected = [accuracy_of_a_run(eurosat, tmp_path, part) for part in ("base", "new", "all")]
    assert len(set(expected)) == 3 and min(expected) > 0
    printed(*expected)
    code, row, out, _ = check(capsys, eurosat)
    numbers = [f"{value:.2f}" for value in expected for _ in range(2)]
    assert row == ["eurosat", "100", *numbers] and code == 0
    assert "1 of 1 agree with the published numbers" in out
    printed(expected[0] + 0.09, expected[1] - 0.09, 3)
    assert check(capsys, eurosat)[0] == 0
    printed(expected[0] + 0.12, expected[1], expected[2])
    code, _, out, _ = check(capsys, eurosat)
    assert code == 1 and "0 of 1 agree" in out


@pytest.fixture
def right(eurosat, printed, capsys):
    """Replace the published numbers by the accuracies on the unchanged data."""
    if not RIGHT:
        printed(0, 0, 0)
        row = check(capsys, eurosat)[1]
        RIGHT.extend(float(row[i]) for i in (2, 4, 6))
    printed(*RIGHT)


def test_other_names_do_not_agree(right, eurosat, capsys):
    assert check(capsys, eurosat)[0] == 0
    write_split(eurosat, ["AnnualCrop", *NAMES[1:]])
    code, _, out, _ = check(capsys, eurosat)
    assert code == 1 and out.splitlines()[-1].endswith("; these do not: eurosat")


def test_every_public_data_set_has_published_accuracies():
    papers = {name for name, kind in checked_datasets().items() if not kind.several}
    papers -= {*GROUPS["medical"]}
    assert all(zero_shot.printed_numbers(name) for name in papers)
    assert zero_shot.printed_numbers("eurosat")["base"] == 56.48
    assert zero_shot.printed_numbers("eurosat")["new"] == 64.05
    assert zero_shot.deciding_splits(zero_shot.printed_numbers("imagenetv2")) == ["all"]


def test_options_that_need_zero_shot(eurosat, capsys):
    assert main(["check-data", "eurosat", "--root", str(eurosat), "--backbone", "emoji"]) == 2
    assert "need --zero-shot" in capsys.readouterr().err
    assert main(["check-data", "--zero-shot", "dtd", "--root", str(eurosat)]) == 1


def test_sentences_are_compared_on_validation_images(eurosat, tmp_path, capsys, monkeypatch):
    about = tmp_path / "a.json"
    about.write_text(json.dumps({"Forest": ["a red square"], "*": ["{}, seen from above"]}))
    own = "a centered satellite photo of {}."
    assert main(["check-data", "eurosat", "--zero-shot", "--root", str(eurosat), "--sentences",
                 own, str(about)]) == 0  # fmt: skip
    said = capsys.readouterr().out
    rows = {line.rsplit(maxsplit=1)[0]: line.split()[-1] for line in said.splitlines() if line}
    assert rows["own sentence"] == rows[own] != rows[str(about)]
    assert "EuroSAT: " in said and "1 of 5 classes by case, 4 by '*'; 1 for each" in said
    words = ["TEST.SPLIT", "val", "DATASET.SENTENCES", about, "DATASET.VALIDATION_SHOTS", -1]
    of_run = accuracy_of_a_run(eurosat, tmp_path, "all", *words)
    assert rows[str(about)] == f"{of_run:.2f}"


def test_sentences_that_cannot_be_compared(eurosat, monkeypatch):
    cls, checker = checked_datasets()["eurosat"], zero_shot.Checker(CLIP)
    train, val, test = cls.look(eurosat)[1]
    monkeypatch.setattr(checker, "_features", None)  # they are refused before images are read
    for without in ([], test):
        with pytest.raises(UserError, match="eurosat lacks validation images apart from its test"):
            checker.try_sentences("eurosat", cls, (train, without, test), [])
    with pytest.raises(UserError, match="'none.json' cannot be read"):
        checker.try_sentences("eurosat", cls, (train, val, test), [Asked("none.json")])
