"""Images and classes that are divided otherwise than in the training: what a run refuses."""

import json
import random
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from cases import slow_but
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image
from tiny import HALVES, results, run, write_halves

from benchmark.launch.engine import Engine, Settings
from datasets.base import ImageDataset
from datasets.labels import subsample_classes
from datasets.splits import divide
from trainers.prompting.checkpoint.identity import BY_PROCESS

OWN = ["DATASET.NAME", "ImageFolder", "TRAIN.CHECKPOINT_FREQ", "1"]


def draw(path, seed=7):
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), "uint8")
    Image.fromarray(pixels).save(path)


def add(root):
    for seed, folder in enumerate(sorted(root.iterdir())):
        for i in range(4):
            draw(folder / f"a{i}.png", 10 * seed + i)


CHANGES = {
    "more images": add,
    "one image less": lambda root: (root / "sea" / "0.png").unlink(),
    "other pixels": lambda root: draw(root / "sea" / "0.png"),
    "another name": lambda root: (root / "sea" / "0.png").rename(root / "sea" / "z.png"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `images` and a finished run of two epochs on them."""
    folder = tmp_path_factory.mktemp("trained")
    write_halves(folder / "images")
    assert run(folder / "images", "CoOp", folder / "out", 2, extra=OWN) == 0
    return folder


@pytest.fixture
def again(trained, tmp_path, capsys):
    """Return a function that repeats the command and returns its code and error."""
    kept = tmp_path / "kept"
    shutil.copytree(trained, kept)

    def repeat(*flags, output=trained / "out"):
        code = run(trained / "images", "CoOp", output, 2, *flags, extra=OWN)
        return code, capsys.readouterr().err

    yield repeat
    shutil.rmtree(trained)
    shutil.move(kept, trained)


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "interrupted"])
@pytest.mark.parametrize("change", slow_but(CHANGES, "more images"))
def test_a_run_does_not_continue_on_other_images(trained, again, change, finished):
    out = trained / "out"
    record = (out / "results.json").read_text()
    if not finished:
        (out / "prompt_learner" / "checkpoint").write_text("model.pth.tar-1\n")
    shutil.copytree(trained / "images", trained / "before")
    CHANGES[change](trained / "images")
    code, said = again()
    assert code == 2 and said.count("\n") == 1
    assert f"The run in '{out}/prompt_learner' was begun otherwise (" in said
    assert "of class 4 'sea' is " in said or change == "more images"
    if change == "more images":
        assert (
            "(images of train of class 0 'annual crop' is '7 images, " in said
            and " here and '5 images, " in said
        )
    assert (out / "results.json").read_text() == record
    shutil.rmtree(trained / "images")
    (trained / "before").rename(trained / "images")
    assert again()[0] == 0
    now, then = results(out), json.loads(record)
    assert now["data_fingerprint"] == then["data_fingerprint"]
    assert now["accuracy"] == then["accuracy"]


def test_training_images_are_not_tested_after_another_division(trained, again, tmp_path):
    flags = ["--eval-only", "--model-dir", str(trained / "out")]
    assert again(*flags, output=tmp_path / "same")[0] == 0
    add(trained / "images")
    code, said = again(*flags, output=tmp_path / "other")
    assert code == 2 and " test images are training images of " in said
    assert not (tmp_path / "other" / "results.json").exists()


def test_prompts_to_start_from_have_not_seen_the_test_images(trained, again, tmp_path):
    prompts = str(trained / "out" / "prompt_learner" / "model.pth.tar-2")
    add(trained / "images")
    more = [*OWN, "MODEL.INIT_WEIGHTS", prompts]
    assert run(trained / "images", "CoOp", tmp_path / "other", 2, extra=more) == 2


# ------------------------------------------------------------------ by the process


NOW = {}  # what depends on the process: base and new classes would overlap unseen


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
def base_run(tmp_path_factory):
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
def test_a_data_set_that_is_not_as_in_the_training_is_refused(base_run, case, tmp_path, capsys):
    name, half, changes, said = CASES[case]
    folder = base_run(name)
    NOW.update(SAME | changes)
    pairs = ["DATASET.NAME", name, "DATASET.SUBSAMPLE_CLASSES", half]
    flags = ("--eval-only", "--model-dir", str(folder))
    code = run(folder.parent, "CoOp", tmp_path, 1, *flags, extra=pairs)
    err = capsys.readouterr().err
    assert code == (2 if said else 0), err
    assert not said or f"error: {name} is not divided as in the training of '{folder}' (" in err
    assert said in err and (BY_PROCESS in err) == bool(said)


def test_the_launcher_names_the_cause(tmp_path, monkeypatch):
    engine = Engine([], Settings(tmp_path))
    monkeypatch.setattr(Engine, "_misfit", lambda *_: "the images' hash is 1")
    monkeypatch.setattr("benchmark.records.read_record", lambda folder: {"accuracy": 1.0})
    outcome = engine.judge(SimpleNamespace(folder=tmp_path), None)
    assert outcome.problem.endswith(f"are of another run (the images' hash is 1); {BY_PROCESS}")
