"""A sheet of odd inputs as people have them: a row each with files, a command, what must be said.

The next kind of input costs a line.
"""

import io
import shlex

import numpy as np
import pytest
from PIL import Image
from tiny import arguments

import train
from benchmark.__main__ import main as benchmark
from trainers.prompting import UserError, load_clip
from trainers.prompting.advice import fits
from trainers.prompting.encoders.descriptions import Asked, describe
from trainers.prompting.use.commands import main


def image(mode="RGB", form="PNG", seed=0, frames=1):
    rng, content = np.random.default_rng(seed), io.BytesIO()
    made = [Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(frames)]
    if mode == "I;16":
        made = [Image.fromarray(rng.integers(0, 65_536, (16, 16)).astype(np.uint16))]
    first, *more = [one if mode == "I;16" else one.convert(mode) for one in made]
    first.save(content, form, **({"save_all": True, "append_images": more} if more else {}))
    return content.getvalue()


SIX = image(seed=6)  # of which there are copies
ODD = {  # what a file holds; other texts are written as they are, numbers are images
    "16 bits": image("I;16"),
    "frames": image(form="GIF", frames=2),
    "CMYK": image("CMYK", "JPEG"),
    "cut": image()[:200],
    "": b"",
    "SIX": SIX,
}
TWO = {"IN/cat/0.png": 0, "IN/cat/1.png": 1, "IN/dog/2.png": 2, "IN/dog/3.png": 3}
POOL = TWO | {"IN/unlabelled/4.png": 4, "IN/unlabelled/5.png": 5, "IN/unlabelled/6.png": "SIX"}
OUT = {"OUT/call.json": "{}"}  # marks an output of advise
HEAD = "path,label\n"
ADVISE = "advise IN --output OUT --backbones emoji"
PREDICT = "predict --model-dir RUN"
SHEET = {
    # ---------------------------------------------------- folders and names of classes
    "spaces": ({"IN/a b/0.png": 0, "IN/a_b/1.png": 1}, ADVISE, 2, "seem to name one class"),
    "case": (TWO | {"IN/Cat/5.png": 5}, ADVISE, 2, "('cat') seem to name one class"),
    "one name twice": (
        TWO | {"IN/classnames.txt": "cat a pet\ndog a pet"}, ADVISE, 2, "cat' ('a pet') and the",
    ),
    "beside parts": (
        {f"IN/train/{k[3:]}": x for k, x in TWO.items()} | {"IN/bird/4.png": 4}, ADVISE, 0,
        "IN' has parts, so that other folders are left out: bird",
    ),
    "valid": ({"IN/train/cat/0.png": 0, "IN/valid/cat/1.png": 1}, ADVISE, 2, "from val/: rename"),
    "unlabelled in a part": (
        {f"IN/train/{k[3:]}": x for k, x in POOL.items()}, ADVISE, 0,
        "IN/train/unlabelled' is left out", "4 images of 2 classes",
    ),
    "deeper": (TWO | {"IN/cow/2019/4.png": 4}, ADVISE, 0, "5 images of 3 classes"),
    "numbers": ({f"IN/00{k[3:]}".replace("00", "000.", 1): x for k, x in TWO.items()}, ADVISE, 0,
                "a CLIP reads numbers as part of class names (000.cat, 000.dog): rename"),
    "a number as a word": ({"IN/3d/0.png": 0, "IN/18/1.png": 1}, ADVISE, 0, "!reads numbers"),
    "copies in two folders": (TWO | {"IN/cat/4.png": "SIX", "IN/dog/5.png": "SIX"}, ADVISE, 0,
                              "1 images are in two classes, such as 'cat/4.png' and 'dog/5.png'"),
    "several": (TWO | {"IN/several/4.png": 4}, ADVISE, 2, "names the class 'several', an answer"),
    "none of these": (TWO | {"IN/none_of_these/4.png": 4}, ADVISE, 2,
                      "names the class 'none of these', an answer of predict"),
    "a class in a table": ({"IN/0.png": 0, "t.csv": HEAD + "IN/0.png,several"},
                           "advise t.csv --output OUT --backbones emoji", 2, "'several' is an ans"),
    "escape": (TWO | {"IN/a\x1b[2J/4.png": 4}, ADVISE, 2, "cannot be printed: rename it"),
    "a group that is the class": (
        {"IN/0.png": 0, "t.csv": "path,label,group\nIN/0.png,cat,cat"},
        "advise t.csv --output OUT --backbones emoji", 2, "line 2: the group is the class, 'cat'",
    ),
    "unlabelled in a part, for training": (
        {f"IN/{part}/{k[3:]}": 10 * n + i for n, part in enumerate(("train", "val", "test"))
         for i, k in enumerate(POOL)}, "train.py IN", 0, "IN/test/unlabelled' is left out",
    ),
    "several, for training": ({f"IN/several/{i}.png": i for i in range(9)} | TWO, "train.py IN", 2,
                              "names the class 'several', an answer"),
    # ---------------------------------------------------- the output
    "the images as output": (TWO, "advise IN --output IN --backbones emoji", 2, "would be a class"),
    "files of others": (TWO | {"OUT/thesis.tmp": "x"}, ADVISE, 2, "OUT' is not an output of adv"),
    "a run": (TWO | {"OUT/gda/model.pth.tar-1": "x"}, ADVISE, 2, "whose call.json it lacks: give"),
    "a killed call": (TWO | {"OUT/.lock": ""}, ADVISE, 0, "Take "),
    # ---------------------------------------------------- files of images
    "no HEIC alone": (TWO | {"IN/cow/a.HEIC": "x"}, ADVISE, 1, "cow/a.HEIC: it is not an image",
                      "'cow' has no other image, and so no label"),
    "no HEIC beside": (TWO | {"IN/dog/a.HEIC": "x"}, ADVISE, 1, "dog/a.HEIC: it is not an image"),
    "unlabelled": (POOL, ADVISE, 0, "IN/unlabelled' is left out", "4 images of 2 classes"),
    "Unlabeled": (TWO | {"IN/Unlabeled/4.png": 4}, ADVISE, 0, "IN/Unlabeled' is left out",
                  "4 images of 2 classes"),
    "a zip": (TWO | {"t.zip": b"PK\xff"}, "advise t.zip --output OUT --backbones emoji", 2,
              "it is not UTF-8): save it as CSV, or give a folder"),
    "no label in a table": (
        TWO | {"t.csv": HEAD + "IN/cat/0.png,cat\nIN/dog/2.png,"},
        "advise t.csv --output OUT --backbones emoji", 2, "line 3: '", "dog/2.png' has no label",
    ),
    "frames": (TWO | {"IN/dog/a.png": "frames"}, ADVISE, 1, "dog/a.png: it has 2 frames: give one"),
    "CMYK": (TWO | {"IN/dog/a.jpg": "CMYK"}, ADVISE, 0, "5 images of 2 classes"),
    "predict: no HEIC": ({"p/a.HEIC": "x"}, f"{PREDICT} p", 1, "a.HEIC': it is not an image"),
    "predict: 16 bits": ({"p/a.png": "16 bits"}, f"{PREDICT} p", 1, "a.png': it has 16 bits: con"),
    "predict: CMYK": ({"p/a.jpg": "CMYK"}, f"{PREDICT} p", 0, "p/a.jpg: "),
    "predict: empty": ({"a.png": ""}, f"{PREDICT} a.png", 1, "'a.png': it is empty"),
    # ---------------------------------------------------- sentences, of the classes cat and dog
    "a key twice": ({"s.json": '{"cat": ["a"], "cat": ["b"]}'}, "sentences", 2, "'cat' is twice"),
    "an empty list": ({"s.json": '{"cat": [], "*": ["a {}"]}'}, "sentences", 0, "is empty (cat)"),
    "an empty text": ({"s.json": '{"cat": [" ", "a"], "*": ["b"]}'}, "sentences", 0, "empty (cat)"),
    "no attributes": ({"s.json": '{"cat": {}, "dog": ["a"]}'}, "sentences", 0, "is empty (cat)"),
    "a text": ({"s.json": '{"cat": "", "dog": ["a"]}'}, "sentences", 2, "for the class 'cat': add"),
    "unused": ({"s.json": '{"kat": ["a"], "*": ["{}"]}'}, "sentences", 0, "of no class: kat"),
    "two of one class": ({"s.json": '{"cat": ["a"], "Cat": ["b"], "*": ["{}"]}'}, "sentences", 2,
                         "has cat and Cat for the class 'cat': keep one of them"),
    # ---------------------------------------------------- commands for researchers
    "nothing": ({"data/eurosat/2750/.DS": ""}, "check-data eurosat --root data", 1, "1 of 1 found"),
    "an empty folder": ({"data/eurosat/2750": None}, "check-data eurosat --root data", 1,
                        "0 of 1 found below"),
    "values with =": ({}, "base2new emoji TRAINER.ALIGN.BETA=0,1", 2,
                      "for several values, --vary TRAINER.ALIGN.BETA=0,1"),
    "values": ({}, "base2new emoji --trainers ALIGN TRAINER.ALIGN.BETA 0,1 --dry-run", 2,
               "--vary TRAINER.ALIGN.BETA=0,1 of a script)"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def few_steps():
    """Shorten the fits, whose numbers are not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(fits.SETTINGS, "LPPlusPlus", {"SEARCH_HP": False, "TRAIN_EPOCH": 2})
        patch.setattr(fits, "EPOCHS", 2)
        yield


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        (path if content is None else path.parent).mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = image(seed=content)
        if content is not None:
            given = ODD.get(content, content) if isinstance(content, str) else content
            path.write_bytes(given.encode() if isinstance(given, str) else given)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write(folder, TWO)
    words = ["advise", str(folder / "IN"), "--output", str(folder / "OUT"), "--backbones", "emoji"]
    assert main(words) == 0
    return folder / "OUT"


def call(words, run):
    """Do a command and return its exit code."""
    words = [str(run) if word == "RUN" else word for word in shlex.split(words)]
    if words[0] == "train.py":
        flags = ["--output-dir", "OUT", "DATASET.NAME", "ImageFolder", "DATASET.ROOT", "IN"]
        return train.run([*arguments(".", "CoOp", "OUT"), *flags[2:]])
    if words[0] == "sentences":
        try:
            print(describe(Asked("s.json"), ["cat", "dog"], load_clip("emoji")).note)
        except UserError as error:
            print(error)
            return 2
        return 0
    return main(words) if words[0] in ("advise", "predict") else benchmark(words)


@pytest.mark.parametrize("case", SHEET)
def test_what_is_said_of_odd_inputs(case, run, tmp_path, monkeypatch, capsys):
    files, words, code, *said = SHEET[case]
    write(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    before.pop(tmp_path / "OUT/call.json", None)  # of this call
    found = call(words, run)
    out, err = capsys.readouterr()
    for part in said:
        assert (part.strip("!") in out + err) != part.startswith("!"), out + err
    assert found == code, out + err
    assert "Traceback" not in out + err
    if code == 2:  # one sentence, and nothing that a person wrote is changed
        assert err.count("\n") <= 1
        assert all(path.read_bytes() == content for path, content in before.items())
