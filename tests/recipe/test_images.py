"""A run keeps how its images were divided, and refuses others: resumed, finished or evaluated."""

import json
import shutil

import numpy as np
import pytest
from cases import slow_but
from PIL import Image
from tiny import run, write_halves

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
    assert f"The run in '{out}/prompt_learner' was begun with other images (" in said
    assert "of class 4 'sea': " in said or change == "more images"
    if change == "more images":
        assert (
            "(images of train of class 0 'annual crop': 5 images, " in said
            and ", now 7 images, " in said
        )
    assert (out / "results.json").read_text() == record
    shutil.rmtree(trained / "images")
    (trained / "before").rename(trained / "images")
    assert again()[0] == 0
    now, then = json.loads((out / "results.json").read_text()), json.loads(record)
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
