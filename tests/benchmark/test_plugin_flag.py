"""Tests of `--plugin`: methods in lists, and data sets in every command that reads one."""

import json

import pytest
from outcomes import ran
from paths import GOLDEN
from PIL import Image

import datasets  # noqa: F401 (all are registered before a test replaces the registry)
from benchmark import records
from benchmark.__main__ import main
from benchmark.launch.data import fingerprint_at
from benchmark.launch.engine import Engine, Settings
from benchmark.launch.needs import lacking
from benchmark.protocols import FEW_SHOT
from benchmark.protocols.configs import TrainerConfigs, use_plugins
from benchmark.protocols.launches import write_launch
from trainers.prompting import UserError
from trainers.prompting.storage.features import read_features

TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
BOXES = """
from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets import ImageDataset
from datasets.splits import divide


@DATASET_REGISTRY.register()
class Boxes(ImageDataset):
    dataset_dir = "boxes"

    @classmethod
    def make_split(cls, folder):
        lines = (folder / "boxes.txt").read_text().split()
        images = ((f"{folder}/{i}.png", int(label)) for i, label in enumerate(lines))
        return divide([Datum(path, label, 0, "ab"[label]) for path, label in images])
"""


@pytest.mark.slow
def test_methods_of_a_plug_in_are_listed(plugged, capsys):
    assert main(["info", "--plugin", plugged]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "PluggedCoOp 0 1 0 none 16 / - 1 / - prompt_learner " in out
    assert "PluggedCoOp 8,192 " in out and "PluggedShift 512 " in out


def test_config_files_of_a_plug_in_are_listed(plugged, capsys):
    assert main(["info", "PluggedCoOp", "--plugin", plugged]) == 0
    assert capsys.readouterr().out.rstrip().endswith("PluggedCoOp: base2new")


@pytest.fixture
def boxes(tmp_path, monkeypatch):
    """Return the path of a plug-in with a data set of 20 images; its data are in `root`."""
    folder, data = tmp_path / "their work", tmp_path / "root" / "boxes"
    folder.mkdir()
    data.mkdir(parents=True)
    (folder / "boxes.py").write_text(BOXES)
    (folder / "boxes.yaml").write_text("DATASET:\n  NAME: Boxes\n")
    (folder / "other.yaml").write_text("- of another program\n")
    (data / "boxes.txt").write_text("0 1 " * 10)
    for i in range(20):
        Image.new("RGB", (32, 32), (12 * i, 0, 0)).save(data / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    yield str(folder / "boxes.py")
    use_plugins([])


def planned(output, shots=4):
    configs = TrainerConfigs("few_shot")
    (run,) = FEW_SHOT.plan(output, ["boxes"], [1], configs, ["TipAdapter"], [shots])
    return run


def settings(boxes, root):
    return Settings(root, backbone=TINY, plugins=(boxes,), opts=("DATALOADER.NUM_WORKERS", "0"))


def test_a_data_set_is_planned_checked_and_encoded(boxes, tmp_path, capsys):
    words = ["--plugin", "their work/boxes.py", "--root", "root"]
    few = ["few_shot", "boxes", "--trainers", "ZeroshotCLIP", "--seeds", "1", "--shots", "1"]
    assert main([*few, *words, "--dry-run"]) == 0
    command = next(line for line in capsys.readouterr().out.splitlines() if line[0] != "#")
    for name in ("--plugin", "--dataset-config-file"):
        assert f"{name} '{tmp_path / 'their work' / 'boxes'}." in command
    assert main(["check-data", "boxes", *words]) == 0
    rows = map(str.split, capsys.readouterr().out.splitlines())
    assert ["boxes", "yes", "2", "10", "4", "6"] in rows
    assert main(["features", "boxes", *words, "--backbone", TINY]) == 0
    (file,) = (tmp_path / "features").iterdir()
    found = read_features(file)
    assert found.dataset == "Boxes"
    assert [len(found.split[part]) for part in ("train", "val", "test")] == [10, 4, 6]


def test_runs_know_its_fingerprint_work_and_folder(boxes, tmp_path):
    use_plugins([boxes])
    root = tmp_path / "root"
    given, run = settings(boxes, root), planned(tmp_path / "output")
    before = fingerprint_at("boxes", str(root))
    record = {"trainer": "TipAdapter", "dataset": "Boxes", "seed": 1, "shots": 4}
    record |= {"subsample_classes": "all", "accuracy": 50.0, "data_fingerprint": before}
    record |= {"run": ran(DATASET={"ROOT": str(tmp_path / "elsewhere")})}
    run.folder.mkdir(parents=True)
    (run.folder / "results.json").write_text(json.dumps(record))
    write_launch(run)
    assert before and not Engine([run], Settings(root)).todo
    assert not lacking([run], given)
    (lack,) = lacking([run], settings(boxes, tmp_path))
    assert "Boxes was looked for in" in str(lack)
    (root / "boxes" / "boxes.txt").write_text("1 0 " * 10)
    with pytest.raises(UserError, match="the images' hash is"):
        Engine([run], Settings(root))
    use_plugins([])
    assert records.from_folder(run).problem is None  # as `report` reads it, without the plug-in


@pytest.mark.parametrize("words, why", [
    (["features", "boxes"], "There is no data set 'boxes'"),
    (["features", "unknown", "--plugin", "their work/boxes.py"], "There is no data set 'Unknown'"),
    (["check-data", "--root", ".", "--plugin", "none.py"], "There is no plug-in file 'none.py'"),
    (["features", "emoji", "--plugin", "none.py"], "There is no plug-in file 'none.py'"),
    (["base2new", "dtd", "--plugin", "taken/boxes.py"],
     "dtd.yaml' has the name of the data set of '"),
])  # fmt: skip
def test_data_sets_that_cannot_be_read(boxes, tmp_path, capsys, words, why):
    (tmp_path / "their work" / "unknown.yaml").write_text("DATASET:\n  NAME: Unknown\n")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "dtd.yaml").write_text("DATASET: {NAME: Boxes}\n")
    more = ["--backbone", TINY] if words[0] == "features" else []
    assert main([*words, *more]) == 2
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1 + said.count("Plug-in '")
