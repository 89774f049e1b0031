"""Tags of own images: `advise` on a table of several labels, and the run that it leaves."""

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dassl.data.datasets import DATASET_REGISTRY
from paths import ROOT

import datasets  # noqa: F401 (registers them)
from trainers.prompting import UserError, load_run
from trainers.prompting.advice import fits, tags
from trainers.prompting.advice.page import draw_tags
from trainers.prompting.record.scores import read_scores
from trainers.prompting.record.several import measures
from trainers.prompting.record.thresholds import Thresholds
from trainers.prompting.use.commands import main

NAMES = ["animal bird", "arrow", "heart", "other symbol"]
SIDE = 32  # width of features


def write_table(path, rows, head=("path", "labels")):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.fixture(scope="module")
def scenes():
    """Return paths of scenes and the NAMES that each has; a third has none."""
    _, (_, _, test) = DATASET_REGISTRY.get("EmojiScenes").look("")
    of = {name: test[0].names.index(name) for name in NAMES}
    rows = [(x.impath, [name for name, k in of.items() if x.label[k] == 1]) for x in test]
    full, bare = [row for row in rows if row[1]], [row for row in rows if not row[1]]
    return [*full[:60], *bare[:30]]


def advise(table, out, *more):
    return main(["advise", str(table), "--backbones", "emoji", "--output", str(out), *more])


@pytest.fixture(scope="module")
def advised(tmp_path_factory, scenes):
    """Return the output of the command; one label is unknown and one scene is there twice."""
    root = tmp_path_factory.mktemp("tags")
    rows = [(path, ";".join(names)) for path, names in scenes]
    rows[0] = (rows[0][0], f"{rows[0][1]}; ?{next(x for x in NAMES if x not in rows[0][1])}")
    copy = root / "copy.png"
    copy.write_bytes(Path(rows[1][0]).read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fits.COMPARED, "LinearProbe", [{"C": 10.0}])
        assert advise(write_table(root / "t.csv", [*rows, (copy, rows[1][1])]), root / "out") == 0
    return root / "out"


def log_of(out):
    return max(out.glob("log.txt*")).read_text().splitlines()


def test_the_advice_says_what_was_measured(advised):
    record, scores = json.loads((advised / "results.json").read_text()), read_scores(advised)
    assert record["trainer"] == "LinearProbe" and record["several"] == "decides"
    assert record["num_test"] == len(scores["label"]) == 90  # the copy counts once
    assert (scores["label"] == -1).sum() == 1
    expected = measures(scores["label"], scores["logit"], True)
    assert {name: record[name] for name in expected} == expected and "cf1_mean" in expected
    advice, share = log_of(advised)[-3:-1]
    assert advice.startswith(f"Take LinearProbe on emoji: mAP {record['map']:.1f}% on 90 labelled")
    assert share.startswith("By folds, about ") and share.endswith(").")
    page = (advised / "advice.html").read_text()
    assert advice in page and "svg+xml" in page and "Images with most wrong tags" in page


def test_every_image_has_its_labels_and_tags_in_a_table(advised):
    with open(advised / "answers.csv", encoding="utf-8-sig", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["path", "labels", "tags", *NAMES] and len(rows) == 90

    def wrong(row):
        own, given = ({*filter(None, cell.split(";"))} for cell in row[1:3])
        unknown = {name[1:] for name in own if name.startswith("?")}
        return len((own - {f"?{x}" for x in unknown}) ^ (given - unknown))

    assert [*map(wrong, rows)] == sorted(map(wrong, rows), reverse=True)


@pytest.mark.parametrize("kind", ["text", "csv", "json"])
def test_tags_are_names_at_or_above_their_thresholds(advised, scenes, kind, capsys):
    run, paths = load_run(advised), [path for path, _ in scenes[:8]]
    images = torch.stack([run.preprocess(run.read(path)) for path in paths])
    scores = run.model(images).sigmoid()
    expected = [
        [name for name, score, t in zip(NAMES, row, run.thresholds.best, strict=True) if score >= t]
        for row in scores.tolist()
    ]
    assert run.tags(run.model.predict(images)) == [*zip(expected, scores.tolist(), strict=True)]
    capsys.readouterr()
    assert main(["predict", "--model-dir", str(advised), "--format", kind, *paths]) == 0
    out = capsys.readouterr().out
    if kind == "json":
        found = json.loads(out)
        assert [x["tags"] for x in found] == expected and found[0]["scores"].keys() == {*NAMES}
    elif kind == "csv":
        head, *rows = csv.reader(io.StringIO(out))
        assert head == ["path", "tags", *NAMES]
        assert [row[1] for row in rows] == [";".join(names) for names in expected]
        assert [float(x) for x in rows[0][2:]] == pytest.approx(scores[0].tolist(), rel=1e-4)
    else:
        assert out.splitlines()[0] == f"{paths[0]}: {', '.join(expected[0]) or '-'}"


def test_an_exported_file_has_the_thresholds(advised, scenes, tmp_path, capsys):
    file = tmp_path / "a.pt2"
    assert main(["export", "--model-dir", str(advised), "--output", str(file)]) == 0
    kept = {"run.json": ""}
    torch.export.load(file, extra_files=kept)
    said = json.loads(kept["run.json"])
    assert json.loads(said["thresholds"]) == load_run(advised).thresholds.best.tolist()
    assert json.loads(said["scores"]) == "sigmoid"
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "use.md").read_text("utf-8"), re.S)
    (code,) = [block for block in blocks if "thresholds" in block and "tags" in block]
    run = load_run(advised)
    image = run.preprocess(run.read(scenes[0][0]))[None]
    place = {"np": np, "json": json, "names": run.classnames, "facts": said}
    exec(code, place | {"logits": run.model(image).numpy()}, place)
    assert place["tags"] == run.tags(run.model.predict(image))[0][0]
    assert main(["info", str(advised)]) == 0
    assert "tags of `predict`, by the thresholds of the run\n" in capsys.readouterr().out


def test_files_and_names_that_do_not_fit_tags(advised, scenes, tmp_path, capsys):
    for name in ("a.safetensors", "a"):
        assert main(["export", "--model-dir", str(advised), "--output", str(tmp_path / name)]) == 2
        assert "let --output end in .pt2 or .onnx, without" in capsys.readouterr().err
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES[:2]))
    words = ["predict", "--model-dir", str(advised), "--classnames", str(names), scenes[0][0]]
    assert main(words) == 0
    assert "No thresholds for these names: tags have 0.5 or more" in capsys.readouterr().err


def test_the_page_answers_with_tags(advised, scenes):
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    from trainers.prompting.use.page import Page

    run = load_run(advised)
    client = TestClient(Page(run).app(), "http://127.0.0.1:8000")
    assert client.get("/about").json()["why"] == "Tags; no tag is an answer."
    content = Path(scenes[0][0]).read_bytes()
    said = client.post("/classify", content=content).json()
    image = run.preprocess(run.read(scenes[0][0]))[None]
    ((given, scores),) = run.tags(run.model.predict(image))
    assert said == {"tags": given, "scores": dict(zip(NAMES, scores, strict=True))}
    assert (
        "one label an image" in client.post("/classify?error=0.1", content=content).json()["error"]
    )


@pytest.mark.parametrize(
    "words, said",
    [
        (("--sure",), "promises nothing of its tags: leave --sure out"),
        (("--error", "0.1"), "--error is for one label an image"),
        (("--top", "2"), "--top is for one label an image"),
    ],
)
def test_options_that_do_not_fit_tags(advised, scenes, words, said, capsys):
    assert main(["predict", "--model-dir", str(advised), scenes[0][0], *words]) == 2
    assert said in capsys.readouterr().err


def test_classify_is_for_one_label(advised):
    with pytest.raises(UserError, match="classify is for images with one label"):
        load_run(advised).classify(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    "change, words, said",
    [
        (lambda rows: [(p, names + ["heart"] * ("heart" not in names)) for p, names in rows], (),
         "in all of the 90 labelled images: heart"),
        (lambda rows: [(p, ["?arrow", *(x for x in names if x != "arrow")]) for p, names in rows],
         (), "in none of the 90 labelled images: arrow"),
        (lambda rows: [(p, ["heart"] if names else []) for p, names in rows], (),
         "has 1 label, but at least two are compared"),
        (lambda rows: rows, ("--keep-test",), "--keep-test and --classes-at are for folders"),
        (lambda rows: rows[:1], (), "label"),
    ],
)  # fmt: skip
def test_tables_of_which_nothing_can_be_learned(scenes, tmp_path, change, words, said, capsys):
    rows = [(path, ";".join(names)) for path, names in change(scenes)]
    table = write_table(tmp_path / "t.csv", rows)
    assert advise(table, tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err


def space(images):
    """Return a space of images and four names."""
    return fits.Space("x", images, torch.eye(4, images.shape[1]), 1.0)


def test_near_copies_with_a_label_in_common_share_a_fold():
    """Else a regression would have seen an image that it is tested on."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.standard_normal((40, SIDE))).float()
    images[20:] = images[:20] + 0.01 * torch.randn(20, SIDE)
    y = (rng.random((40, 4)) < 0.4).astype(np.int8)
    y[:, 0] = np.arange(40) % 2
    y[0:20:2, 0] = 1
    y[20:, 1:] = 0
    y[20:, 0] = y[:20, 0]
    y[21::2], y[1:20:2, 1] = 0, 1
    fold = tags.choose_tags([space(images)], y, np.arange(40), NAMES).fold
    common = ((y[:20] == 1) & (y[20:] == 1)).any(1)
    assert common.sum() == 10
    assert (fold[:20] == fold[20:])[common].all() and (fold[:20] != fold[20:])[~common].any()


def test_what_ranks_is_taken_if_it_is_better():
    """Zero-shot scores have no zero, and each name its own threshold."""
    rng = np.random.default_rng(1)
    y = (rng.random((30, 4)) < 0.3).astype(np.int8)
    noise = rng.standard_normal((30, SIDE))
    images = torch.from_numpy(np.pad(2.0 * y, ((0, 0), (0, SIDE - 4))) + noise * 0.4).float()
    choice = tags.choose_tags([space(images)], y, np.arange(30), NAMES)
    assert choice.best.method == "ZeroshotCLIP" and not choice.best.decides
    assert len({*choice.fitted[0].best.tolist()}) == 4
    assert (choice.best.scores == choice.best.logits).all()
    found, right = choice.curve()
    assert found[-1] == 1 and right[-1] == pytest.approx(y.mean()) and len(right) == y.size


def test_the_curve_by_hand():
    best = SimpleNamespace(decides=True, scores=np.array([[0.5, 0.9], [0.1, 0.7]]))
    labels = np.array([[0, 1], [1, -1]])
    found, right = tags.TagChoice.curve(SimpleNamespace(labels=labels, best=best))
    assert found.tolist() == [0.5, 0.5, 1] and right.tolist() == [1, 0.5, 2 / 3]


def test_the_picture_has_the_tags_that_are_given():
    y, given = np.array([[1, 0], [1, -1], [0, 1]]), np.zeros((3, 2), bool)
    given[0, 0] = True
    curve = np.array([1, 3]) / 3, np.array([1, 0.6])
    told = SimpleNamespace(
        labels=y, given=given, fitted=(Thresholds(np.zeros(2)), None), curve=lambda: curve
    )
    line, point = draw_tags(told).axes[0].lines
    assert line.get_ydata().tolist() == [100, 60]
    assert point.get_xydata().tolist() == [[pytest.approx(100 / 3), 100]]
