"""docs/extending.md: its code runs unmodified, and says all that a method may define."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY
from paths import HALF_WRITTEN, ROOT

from trainers.prompting import (
    Added,
    Method,
    OnSupport,
    TextEncoder,
    build_method,
    load_clip,
    write_sentences,
)
from trainers.prompting.building.rebuild import for_classes
from trainers.prompting.capabilities import CAPABILITIES
from trainers.prompting.checkpoint.public import Public
from trainers.prompting.encoders.text import TextFeatures
from trainers.prompting.encoders.vision import ImageFeatures
from trainers.prompting.method import METHODS
from trainers.prompting.node import fill

PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
OF_CHECKPOINTS = (ROOT / "docs" / "checkouts.md").read_text("utf-8")
NAMES = ["cat", "dog"]


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language, in the order of the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def checkout(tmp_path):
    """A copy of the repository with the files of the page in the places that it names."""
    folders = "assets benchmark configs dassl-lite datasets recipe scripts trainers"
    for name in (*folders.split(), "train.py"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns(HALF_WRITTEN))
        else:
            shutil.copy(source, tmp_path)
    (tmp_path / "anchored.py").write_text(blocks("python")[0])
    (tmp_path / "Anchored").mkdir()
    (config,) = blocks("yaml")
    (tmp_path / "Anchored" / "emoji.yaml").write_text(config)
    (ROOT / "data").mkdir(exist_ok=True)
    (tmp_path / "data").symlink_to(ROOT / "data")  # where the images are unpacked once
    return tmp_path


def call(checkout, command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {
        "PYTHON": sys.executable,
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{environment['PATH']}",
        "SEEDS": "1",
        "SHOTS": "1",
    }
    result = subprocess.run(
        ["bash", "-c", command], cwd=checkout, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_from_nothing_to_a_row_in_a_table(checkout):
    table, command, _ = blocks("bash")
    short = " OPTIM.MAX_EPOCH 2 OPTIM.WARMUP_EPOCH 1"
    call(checkout, command.strip() + short)
    printed = call(checkout, table.partition("#")[0].strip() + short)
    record = json.loads((checkout / "output" / "anchored" / "results.json").read_text())
    assert record["trainer"] == "Anchored" and record["shots"] == 4
    assert re.search(r"^\W*CoOp ", printed, re.MULTILINE)
    row = re.search(r"^\W*Anchored .*$", printed, re.MULTILINE).group()
    assert "512" in row, "4 context vectors of width 128"
    (run,) = (checkout / "output").glob("base2new/train_base/emoji/*/Anchored/emoji/seed1")
    assert (run / "prompt_learner" / "model.pth.tar-2").is_file()
    assert "apart" in (run / "log.txt").read_text()


@pytest.fixture(scope="module")
def page():
    """The names of the page's Python, after it has run from top to bottom."""
    registered, names = dict(METHODS), {"__name__": "page"}
    for block in blocks("python"):
        exec(block, names)
    yield names
    METHODS.clear()
    METHODS.update(registered)
    del DATASET_REGISTRY._objects["Scans"]


CLASSES = re.findall(r"^class (\w+)\((?:Anchored|Method)\)", PAGE, re.MULTILINE)
IMAGES, LABELS = (3, 3, 64, 64), torch.tensor([0, 1, 0])


def built(name: str) -> Method:
    support = {"images": torch.randn(IMAGES), "labels": LABELS}
    method = build_method(name, {}, load_clip("emoji"), NAMES)
    if isinstance(method, OnSupport):
        method = build_method(name, {}, load_clip("emoji"), NAMES, support=support)
    return method


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_of_the_page_trains_and_predicts(name, page):
    method = built(name)
    method.backward(method.losses(torch.randn(IMAGES), LABELS))
    without = [key for key, p in method.learned().items() if p.grad is None]
    assert not without
    logits = method.eval().predict(torch.randn(IMAGES)).logits
    assert logits.shape == (3, 2) and logits.isfinite().all()


def test_what_the_classes_of_the_page_compute(page):
    anchored, images = built("Anchored").eval(), torch.randn(IMAGES)
    expected = anchored(images)

    def same_prompt(name):
        method = built(name).eval()
        method.load_state_dict(anchored.state_dict(), strict=False)
        return method

    for name in ("Tuned", "Weighted", "BestPair"):  # additions change nothing at first
        torch.testing.assert_close(same_prompt(name)(images), expected)
    balanced = same_prompt("Balanced")
    first, second = (balanced.predict(images).logits for _ in range(2))
    share = 1 + expected.softmax(1).sum(0)
    torch.testing.assert_close(first - first.mean(), expected - expected.mean())
    torch.testing.assert_close(second, expected - (share / share.sum()).log())
    assert not torch.equal(first, second)
    balanced.reset()
    torch.testing.assert_close(balanced.predict(images).logits, first)
    prototypes = same_prompt("Prototypes")
    found = (prototypes(images) - expected).abs()
    assert 0 < found.max() <= 1.001, "cosines"
    assert [len(c) for c in (built("Deep").contexts()[:2])] == [3, 3]


def test_what_the_page_says_in_passing(page):
    """Whole sentences, dropped patches, a shared projection; names and seed of the training."""
    clip_model, others = load_clip("emoji"), ["owl", "fox", "hen"]
    cases = (["{}"], ["a photo of a cat.", "two dogs"]), (["a photo of a {}."], ["cat"])
    whole, pieces = (
        TextEncoder(clip_model, write_sentences(clip_model, *case))().h[0, 0] for case in cases
    )
    torch.testing.assert_close(whole, pieces)
    dropped, x = built("Dropped"), torch.randn(2, 65, 128)
    assert dropped.pre(x).shape == (2, 33, 128) and dropped.pre.eval()(x).shape == x.shape
    shared = built("Projection")
    assert shared.text_encoder.text_projection is shared.learned()["projection"]
    with torch.no_grad():
        shared.projection.mul_(2)
    then = for_classes(shared, clip_model, NAMES, others, "")
    assert torch.equal(then.text_encoder.text_projection, shared.projection)
    once_more = for_classes(then, clip_model, others, NAMES, "")
    assert then.training_classnames == once_more.training_classnames == NAMES
    assert fill("{seed}", {"seed": 7}) == "7" and fill(3, {"seed": 7}) == 3


def test_the_data_set_of_the_page(page, tmp_path):
    (tmp_path / "scans").mkdir()
    lines = [f"{i}.png,{'wrist' if i % 2 else 'hand'},{i // 4}" for i in range(80)]
    for i in range(80):
        (tmp_path / "scans" / f"{i}.png").write_text(str(i))
    (tmp_path / "scans" / "scans.csv").write_text("\n".join(["file,finding,patient", *lines]))
    node = SimpleNamespace(ROOT=str(tmp_path), NUM_SHOTS=-1, SUBSAMPLE_CLASSES="all")
    data = page["Scans"](SimpleNamespace(DATASET=node, SEED=1))
    parts = data.train_x, data.val, data.test
    assert data.classnames == ["hand", "wrist"] and [len(part) for part in parts] == [40, 16, 24]
    patients = [{item.group for item in part} for part in parts]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 20


def test_plain_pytorch(page):
    assert page["logits"].shape == (4, 2)
    assert all(p.grad is not None for p in page["method"].learned().values())


def rows(first: str) -> set[str]:
    """Return the names in the first cells of a table, by the first cell of its header."""
    (table,) = re.findall(rf"^\| {re.escape(first)} \|.*\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    cells = [line.split("|")[1] for line in table.splitlines()]
    return {name for cell in cells for name in re.findall(r"`([\w.]+)`", cell)}


def test_every_feature_is_on_the_page():
    known = {f"image.{name}" for name in ImageFeatures._fields}
    known |= {f"text.{name}" for name in TextFeatures._fields} - {"text.s_weights"}
    assert rows("field") == known | {"text.s_weights.mass"}


def test_every_addition_to_a_block_is_on_the_page():
    assert rows("`Added(...)`") == set(Added._fields)


def test_all_that_a_method_may_define_is_on_the_pages():
    source = inspect.getsource(Method)
    end = source.index("-- the same for all")
    hooks = re.findall(r"(?<!@property\n)^    def (\w+)", source[:end], re.MULTILINE)
    attributes = {*Method.__annotations__, *Public.__annotations__}
    for capability in CAPABILITIES:
        attributes |= {n for n in vars(capability) if n not in vars(Method) and n[0] != "_"}
    attributes -= {"defaults", "settings", "logit_scale", "logit_bias", "chunk_bytes"}
    said = PAGE + OF_CHECKPOINTS
    missing = [n for n in (*hooks, *attributes) if not re.search(rf"\b{n}\b", said)]
    assert len(hooks) > 10 and len(attributes) > 40 and not missing
