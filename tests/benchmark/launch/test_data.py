"""Finished runs on some data do not count as runs on other data."""

import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from outcomes import ran
from PIL import Image
from public_layouts import dtd, load

from benchmark.__main__ import main
from benchmark.launch import data
from benchmark.launch.engine import Engine, Settings
from benchmark.launch.needs import lacking
from benchmark.protocols import FEW_SHOT
from benchmark.protocols.configs import TrainerConfigs
from benchmark.protocols.launches import write_launch
from trainers.prompting import UserError, embedded
from trainers.prompting.backbones import weights_sha256
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.embedded import EMBEDDED, file_sha256
from trainers.prompting.storage.run_record import stream_text

COLOURS = itertools.product(range(256), repeat=3)


def fill(root: Path, *classes: str, each: int = 4) -> Path:
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (8, 8), next(COLOURS)).save(root / name / f"{i}.png")
    return root


class Done:
    """A finished run on some data, and the launcher's view of it with the same or other data."""

    def __init__(self, folder: Path, root: Path, dataset: str = "image_folder", **changes):
        self.folder, self.dataset, self.backbone = folder, dataset, changes.get("backbone")
        run = self.run()
        data = load(dataset.partition("=")[0], root)
        record = {"trainer": "CoOp", "dataset": type(data).__name__, "seed": 1, "shots": 4}
        record |= {"subsample_classes": "all", "accuracy": 50.0}
        record |= {"run": ran(DATASET={"ROOT": str(root)})}
        record |= {"data_fingerprint": data.fingerprint} | changes
        run.folder.mkdir(parents=True)
        (run.folder / "results.json").write_text(json.dumps(record))
        write_launch(run)

    def run(self):
        configs = TrainerConfigs(asked="emoji")
        (run,) = FEW_SHOT.plan(self.folder, [self.dataset], [1], configs, ["CoOp"], [4])
        return run

    def again(self, root: Path | None, *opts: str) -> int:
        """Return the number of runs to do."""
        return len(Engine([self.run()], Settings(root, opts=opts, backbone=self.backbone)).todo)

    def refused(self, root: Path | None, why: str, *opts: str) -> None:
        with pytest.raises(UserError, match=f"holds the results of another run \\({why}"):
            self.again(root, *opts)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


OTHER = "(the images' hash|ood DescribableTextures) is '.*' here and '.*' there"


def test_a_finished_run_on_other_images_is_refused(output, tmp_path):
    a, b = fill(tmp_path / "a", "ant", "bee"), fill(tmp_path / "b", "cat", "dog")
    done = Done(output, a)
    assert done.again(a) == done.again(None) == 0
    done.refused(b, OTHER)
    shutil.copytree(a, tmp_path / "copy")
    assert done.again(tmp_path / "copy") == 0
    a.rename(tmp_path / "moved")
    assert done.again(tmp_path / "moved") == 0
    assert done.again(a) == 0  # the same folder, which no longer exists
    done.refused(b, OTHER)


CHANGES = {
    "a class": lambda root: fill(root, "cow"),
    "a name": lambda root: (root / "ant").rename(root / "ants"),
    "an image": lambda root: shutil.copy(root / "ant" / "0.png", root / "ant" / "4.png"),
    "no image": lambda root: (root / "ant" / "0.png").unlink(),
    "pixels": lambda root: Image.new("RGB", (8, 8), "red").save(root / "ant" / "0.png"),
    "names": lambda root: (root / "classnames.txt").write_text("ant an ant\nbee a bee\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_in_a_folder_are_detected(output, tmp_path, change):
    a = fill(tmp_path / "a", "ant", "bee")
    done = Done(output, a)
    CHANGES[change](a)
    done.refused(a, OTHER)


def test_records_without_a_fingerprint_are_judged_by_their_root(output, tmp_path):
    """Data sets of other code have none."""
    a, b = fill(tmp_path / "a", "ant", "bee"), fill(tmp_path / "b", "cat", "dog")
    done = Done(output, a, data_fingerprint=None)
    (tmp_path / "link").symlink_to(a)
    assert done.again(a) == done.again(tmp_path / "link") == done.again(None) == 0
    done.refused(b, f"DATASET.ROOT is '{a}' here and '{b}' there")


def test_other_data_of_a_detection_are_compared(output, tmp_path):
    dtd(tmp_path)
    then = data.fingerprint_at("DescribableTextures", str(tmp_path))  # as TEST.OOD names it
    done = Done(output, fill(tmp_path / "a", "ant", "bee"), ood_fingerprints={"Emoji": None})
    assert done.again(tmp_path / "a") == 0
    done = Done(output / "dtd", tmp_path, "dtd", ood_fingerprints={"DescribableTextures": then})
    assert done.again(tmp_path) == 0
    done = Done(output / "b", tmp_path, "dtd", ood_fingerprints={"DescribableTextures": "1"})
    done.refused(tmp_path, OTHER)


@pytest.mark.parametrize("root", ["given", None])
@pytest.mark.parametrize("change", ["split", "pixels"])
def test_public_data_that_changed_in_their_folder_are_other_data(output, tmp_path, change, root):
    dtd(tmp_path)
    done, root = Done(output, tmp_path, "dtd"), root and tmp_path
    assert done.again(root) == 0
    split = tmp_path / "dtd" / "split_zhou_DescribableTextures.json"
    parts = json.loads(split.read_text())
    if change == "split":
        split.write_text(json.dumps(parts | {"train": parts["test"], "test": parts["train"]}))
    else:
        image = tmp_path / "dtd" / "images" / parts["test"][0][0]
        image.write_bytes(image.read_bytes() + b" ")
    done.refused(root, OTHER)
    shutil.rmtree(tmp_path / "dtd")
    assert done.again(root) == 0  # nothing to compare with


def test_a_launcher_reads_data_and_weights_once(output, tmp_path, monkeypatch):
    a, calls = fill(tmp_path / "a", "ant", "bee"), []
    now = {"backbone": "emoji", "backbone_sha256": "2" * 64}
    for name in ("fingerprint_at", "weights_digest"):
        monkeypatch.setattr(data, name, lambda *words: calls.append(words))
    run = Done(output, a, **now).run()
    assert not Engine([run, run], Settings(a)).todo
    assert calls == [("image_folder", str(a)), ("emoji",)]
    (run.folder / "results.json").unlink()
    assert Engine([run], Settings(a)).todo and len(calls) == 2  # nothing to compare


def test_public_data_may_be_in_any_folder(output, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for root in (a, b):
        dtd(root)
    assert Done(output, a, "dtd").again(b) == 0
    assert not [*b.glob("dtd/*.json")]  # a check writes nothing
    next(b.glob("dtd/images/*/*.jpg")).write_bytes(b"other")
    assert Done(output / "2", a, "dtd", data_fingerprint=None).again(b) == 0


def test_embedded_data_may_be_unpacked_anywhere(output, tmp_path):
    done = Done(output, tmp_path, "emoji_food")
    assert done.again(tmp_path / "new") == 0 and not (tmp_path / "new").exists()


def test_a_finished_run_with_another_embedded_clip_is_refused(output, tmp_path):
    now = {"backbone": "emoji", "backbone_sha256": file_sha256(EMBEDDED["emoji"])}
    assert Done(output, tmp_path, "emoji_food", **now).again(tmp_path) == 0
    done = Done(output / "2", tmp_path, "emoji_food", **now | {"backbone_sha256": "2" * 64})
    done.refused(tmp_path, "other weights of 'emoji': SHA-256 22222222")


def hugging_face(folder):
    """Write the files that loading reads, with one of others, and return the backbone's name."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json", "README.md",
                 "tokenizer.json", "added_tokens.json", "model.index.json"):  # fmt: skip
        (folder / name).write_text("{}")
    return str(folder)


def open_clip(folder):
    pytest.importorskip("open_clip", reason="open_clip is not installed")
    config = {"embed_dim": 4, "vision_cfg": {}, "text_cfg": {"hf_tokenizer_name": "a/b"}}
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    for name in ("open_clip_model.safetensors", "tokenizer.json", "README.md"):
        (folder / name).write_text("{}")
    return f"open_clip:{folder}"


def single(folder):
    folder.mkdir()
    (folder / "clip.safetensors").write_text("{}")
    return str(folder / "clip.safetensors")


@pytest.mark.parametrize("written", [single, hugging_face, open_clip])
def test_other_weights_in_the_same_place_are_another_clip(output, tmp_path, written):
    name = written(tmp_path / "clip")
    now = {"backbone": name, "backbone_sha256": weights_sha256(name)}
    done = Done(output, tmp_path, "emoji_food", **now)
    unknown = Done(output / "2", tmp_path, "emoji_food", **now | {"backbone_sha256": None})
    for file in (tmp_path / "clip").iterdir():
        before = file.read_bytes()
        assert done.again(tmp_path) == 0
        file.write_bytes(before + b" ")
        if file.name == "README.md":
            assert done.again(tmp_path) == 0
        else:
            done.refused(tmp_path, f"other weights of '{name}': SHA-256")
        assert unknown.again(tmp_path) == 0
        file.write_bytes(before)
    shutil.rmtree(tmp_path / "clip")
    assert done.again(tmp_path) == 0  # nothing to compare with


def test_runs_are_told_the_hashes_of_files(tmp_path, monkeypatch):
    name = single(tmp_path / "clip")
    run = Done(tmp_path / "output", tmp_path, "emoji_food").run()
    assert lacking([run], Settings(backbone=name), fetch=True) == []
    told = embedded.known_hashes()
    monkeypatch.setattr(embedded, "_hashes", {})  # as in a new process
    monkeypatch.setattr(hashlib, "file_digest", None)
    with pytest.raises(TypeError):
        file_sha256(name)
    for variable, text in told.items():
        monkeypatch.setenv(variable, text)
    assert file_sha256(name) == hashlib.sha256(b"{}").hexdigest()
    Path(name).write_text("[]")
    with pytest.raises(TypeError):
        file_sha256(name)


def test_names_keep_own_data_sets_apart(output, tmp_path, capsys):
    a, b = fill(tmp_path / "a", "ant", "bee"), fill(tmp_path / "b", "cat", "dog")
    done = Done(output, a, "image_folder=insects"), Done(output, b, "image_folder=pets")
    assert done[0].again(a) == done[1].again(b) == 0
    done[0].refused(b, OTHER)
    assert main(["report", str(output)]) == 0
    told = capsys.readouterr().out
    assert "Few-shot on insects: " in told and "Few-shot on pets: " in told
    asked = ["few_shot", "--trainers", "CoOp", "--shots", "4", "--seeds", "1", "--config", "emoji"]
    asked += ["--output", str(output), "--root", str(a), "--dry-run"]
    assert main([*asked, "image_folder=insects"]) == 0
    skip = "# skip: CoOp on image_folder=insects, 4 shots, seed 1 (finished)\n"
    told = "# runs to do: 0 with training, 0 without; finished: 1\n"
    assert capsys.readouterr().out == skip + told


def test_several_own_data_sets_are_subfolders_by_name(output, tmp_path, capsys):
    for name, classes in (("insects", "ab"), ("pets", "cd")):
        fill(tmp_path / "mine" / name, *classes)
    asked = ["few_shot", "--trainers", "CoOp", "--shots", "4", "--seeds", "1", "--config", "emoji"]
    asked += ["--output", str(output), "--root", str(tmp_path / "mine"), "--dry-run"]
    assert main([*asked, "image_folder=insects", "image_folder=pets"]) == 0
    told = capsys.readouterr().out
    assert [f"--root {tmp_path / 'mine' / name} " in told for name in ("insects", "pets")] == [
        True
    ] * 2
    assert main([*asked, "image_folder=pets", "image_folder=birds", "image_folder=cars"]) == 2
    told = capsys.readouterr().err
    assert "image_folder=birds and image_folder=cars would both read" in told
    assert told.count("\n") == 1


def test_from_images_to_a_table(tmp_path, capfd):
    """Two own data sets in turn; one file name is not UTF-8."""
    a, b = (tmp_path / name for name in "ab")
    fill(a, "cat", "dog")
    fill(b, "sun", "moon")
    (a / "cat" / "0.png").rename(a / "cat" / os.fsdecode(b"\xff.png"))
    asked = ["few_shot", "--trainers", "ZeroshotCLIP", "--output", str(tmp_path / "output")]
    asked += ["--backbone", "emoji", "--jobs", "1", "--root"]
    assert main([*asked, str(a), "image_folder"]) == 0
    told = capfd.readouterr()
    assert "1 runs, 1 to do" in told.err and "Few-shot on a: " in told.out
    assert main([*asked, str(b), "image_folder"]) == 2
    assert "give the images a name (image_folder=NAME), choose another --output" in (
        capfd.readouterr().err
    )
    assert main([*asked, str(b), "image_folder=sky"]) == 0
    assert "Few-shot on sky: " in capfd.readouterr().out
    assert main([*asked, str(a), "image_folder"]) == 0
    assert "1 runs, 0 to do" in capfd.readouterr().err


def test_a_finished_run_of_a_student_whose_teacher_was_trained_again(output, tmp_path):
    a, place = fill(tmp_path / "a", "ant", "bee"), tmp_path / "teacher.pth.tar"
    prompts = {"prompt_learner.ctx": torch.zeros(2, 3)}
    torch.save({"state_dict": prompts}, place)
    digest = Saved.find(str(place), "", "").digest()
    done = Done(output, a, teacher={"place": str(place), "digest": digest})
    assert done.again(a) == 0
    torch.save({"state_dict": {"prompt_learner.ctx": torch.ones(2, 3)}}, place)
    done.refused(a, "the teacher is '.*' here and '.*' there")
    place.unlink()
    assert done.again(a) == 0


def test_a_finished_run_in_another_order_of_the_same_file_is_refused(output, tmp_path):
    a, order = fill(tmp_path / "a", "ant", "bee"), tmp_path / "order.txt"
    order.write_text("0 1 2")
    text = f"{order}:2"
    then = ran(DATASET={"ROOT": str(a)}, TEST={"STREAM": stream_text(text)})
    done, asked = Done(output, a, run=then), ("TEST.STREAM", text)
    assert done.again(a, *asked) == 0
    order.write_text("2 1 0")
    hashed = "'order.txt:2 [0-9a-f]{12}'"
    done.refused(a, f"TEST.STREAM is {hashed} here and {hashed} there", *asked)
    order.unlink()
    assert done.again(a, *asked) == 0
