"""Data sets whose classes or parts depend on the process: base and new would overlap unseen."""

import random
from types import SimpleNamespace

import pytest
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from tiny import HALVES, run, write_halves

from benchmark.launch.engine import Engine, Settings
from datasets.base import ImageDataset, subsample_classes
from datasets.splits import divide
from trainers.prompting.checkpoint.cfg_texts import BY_PROCESS

NOW = {}  # what depends on the process


def items(folder):
    return [
        Datum(str(folder / name.replace(" ", "_") / f"{i}.png"), label, 0, name)
        for label, name in enumerate(NOW["names"])
        for i in NOW["images"]
    ]


@DATASET_REGISTRY.register()
class Unsorted(ImageDataset):
    """As from `set(os.listdir(...))`, and with a shuffle of its own."""

    dataset_dir = "halves"

    @classmethod
    def make_split(cls, folder):
        parts = divide(items(folder))
        random.Random(NOW["seed"]).shuffle(parts[2])
        return parts[0], parts[1], parts[2][:-2]


@DATASET_REGISTRY.register()
class UnsortedElsewhere(DatasetBase):
    """The same in code of others, which names no other half."""

    dataset_dir, layout = "halves", ""

    def __init__(self, cfg):
        parts = divide(items(Unsorted.locate(self, cfg)))
        half = subsample_classes(*parts, subset=cfg.DATASET.SUBSAMPLE_CLASSES)
        super().__init__(train_x=half[0], val=half[1], test=half[2])


SAME = {"names": HALVES, "images": range(10), "seed": 0}
ORDER = [*HALVES[1:], HALVES[0]]
CASES = {
    "the same": ("Unsorted", "new", {}, ""),
    "other classes": ("Unsorted", "new", {"names": ORDER}, "base classes were annual crop, forest"),
    "other base classes": ("Unsorted", "base", {"names": ORDER}, "and are others now"),
    "an order in a half": ("Unsorted", "new", {"names": [HALVES[1], HALVES[0], *HALVES[2:]]},
                           "train of class 0 'annual crop': 5 images, "),
    "other images": ("Unsorted", "new", {"seed": 1}, "test of class 0 "),
    "elsewhere": ("UnsortedElsewhere", "new", {}, ""),
    "other classes elsewhere": ("UnsortedElsewhere", "new", {"names": ORDER}, "base classes were"),
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a function: the run of a data set on its base classes, trained once."""
    root, done = tmp_path_factory.mktemp("root"), {}
    write_halves(root / "halves")

    def of(name):
        if name not in done:
            NOW.update(SAME)
            done[name] = root / name
            pairs = ["DATASET.NAME", name, "DATASET.SUBSAMPLE_CLASSES", "base"]
            assert run(root, "CoOp", done[name], 1, extra=pairs) == 0
        return done[name]

    return of


@pytest.mark.parametrize("case", CASES)
def test_a_data_set_that_is_not_as_in_the_training_is_refused(trained, case, tmp_path, capsys):
    name, half, changes, said = CASES[case]
    folder = trained(name)
    NOW.update(SAME | changes)
    pairs = ["DATASET.NAME", name, "DATASET.SUBSAMPLE_CLASSES", half]
    flags = ("--eval-only", "--model-dir", str(folder))
    code = run(folder.parent, "CoOp", tmp_path, 1, *flags, extra=pairs)
    err = capsys.readouterr().err
    assert code == (2 if said else 0), err
    assert not said or f"error: {name} is not divided as in the training of '{folder}' (" in err
    assert said in err and (BY_PROCESS in err) == bool(said)


def test_the_launcher_names_the_cause(trained, tmp_path, monkeypatch):
    engine = Engine([], Settings(tmp_path))
    monkeypatch.setattr(Engine, "_misfit", lambda *_: "other classes or files than 'x' has")
    monkeypatch.setattr("benchmark.records.read_record", lambda folder: {"accuracy": 1.0})
    outcome = engine.judge(SimpleNamespace(folder=tmp_path), None)
    assert outcome.problem.endswith(f"are of other classes or files than 'x' has; {BY_PROCESS}")
