"""Tests of `info`, which prints the facts of a run from its folder."""

import json
import shlex
import shutil

import pytest
import torch
from hub import stand_in
from PIL import Image
from tiny import edit_run

from benchmark.__main__ import main
from trainers.prompting import load_run
from trainers.prompting.method import METHODS
from trainers.prompting.use import commands
from trainers.prompting.use.commands.info import shots_text


def info(capsys, folder, *more):
    code = main(["info", str(folder), *more])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_facts_of_a_run_are_printed_as_text_and_json(runs, capsys):
    record = json.loads((runs / "ALIGN" / "results.json").read_text())
    code, out, _ = info(capsys, runs / "ALIGN")
    facts = dict(line.split(":", 1) for line in out.splitlines() if not line.startswith(" "))
    facts = {title: text.strip() for title, text in facts.items()}
    assert code == 0 and facts["Method"] == "ALIGN" and facts["Classes"].startswith("4: forest, ")
    assert facts["Backbone"].endswith("tiny_clip_seed0.safetensors")
    assert facts["Data"] == "TinyColours, 4 shots, seed 1"
    assert facts["Accuracy"].startswith(f"{record['accuracy']:.2f}% of 16 images (TinyColours")
    assert "\n  OPTIM.LR 0.01\n" in out and "TRAINER.ALIGN.M 2" in out and "BETA" not in out
    assert "LABEL_NOISE" not in out and "IMBALANCE" not in out
    code, out, _ = info(capsys, runs / "ALIGN", "--format", "json")
    found = json.loads(out)
    assert found["settings"]["TRAINER.ALIGN.BETA"] == 1.0 and found["epoch"] == 1
    assert found["record"]["accuracy"] == record["accuracy"]


@pytest.mark.parametrize(
    "shots, text", [(1, "1 shot"), (16, "16 shots"), (-1, "all training images")]
)
def test_what_was_trained_on(shots, text):
    assert shots_text(shots) == text


def test_missing_or_broken_records_and_old_checkpoints_are_reported(runs, capsys, tmp_path):
    shutil.copytree(runs / "CoOp" / "prompt_learner", tmp_path / "prompt_learner")
    shutil.copy(runs / "CoOp" / "run.json", tmp_path)
    assert "unknown: the folder has no results.json" in info(capsys, tmp_path)[1]
    for text, sentence in {
        "{": "repeat the run, or remove that file",
        '{"accuracy": "high"}': 'holds accuracy "high", which is not from 0 to 100: repeat the run',
        "[]": "holds no accuracy: repeat the run",
        '{"accuracy": 9, "run": {"method": "VPT"}}': "is of another run than run.json (the method "
        "is 'VPT' here and 'CoOp' there): repeat the run",
    }.items():
        (tmp_path / "results.json").write_text(text)
        code, _, err = info(capsys, tmp_path)
        assert code == 2 and sentence in err and err.count("\n") == 1
    path = tmp_path / "prompt_learner" / "model.pth.tar-1"
    state = torch.load(path, weights_only=False)
    del state["classnames"]
    torch.save(state, path)
    code, _, err = info(capsys, tmp_path)
    assert code == 2 and "does not say what made it (class names, settings)" in err


def test_a_run_of_a_missing_plug_in_is_shown(runs, capsys, tmp_path):
    """The plug-in's code is not needed; all settings of its node are shown."""
    shutil.copytree(runs / "CoOp", tmp_path, dirs_exist_ok=True)
    path = tmp_path / "prompt_learner" / "model.pth.tar-1"
    state = torch.load(path, weights_only=False)
    state |= {"trainer": "Gone", "plugins": ["gone.py"]}
    torch.save(state, path)
    edit_run(tmp_path, {"TRAINER.GONE.W": 3})
    run = tmp_path / "run.json"
    run.write_text(run.read_text().replace('"method": "CoOp"', '"method": "Gone"'))
    (tmp_path / "results.json").unlink()
    code, out, _ = info(capsys, tmp_path)
    assert code == 0 and "Plug-ins:   gone.py" in out and "\n  TRAINER.GONE.W 3" in out


def test_a_published_run_is_used_from_the_hub_as_its_card_says(runs, capsys, tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "mine"
    shutil.copytree(runs / "CoOp", folder)
    code, out, _ = info(capsys, folder, "--card", "user/repo")
    assert code == 0
    path, _, upload = out.splitlines()
    text = (folder / "README.md").read_text()
    assert path == str(folder / "README.md") and text.startswith("---\nlibrary_name: promptedclip")
    assert "# CoOp on TinyColours" in text and "`annual crop`" in text
    assert "tiny_clip_seed0.safetensors" in text and str(tmp_path.parent) not in text
    code, _, err = info(capsys, folder, "--card")
    assert code == 2 and err.endswith("README.md' already exists: remove it to write another\n")

    words = shlex.split(upload)
    assert words[:5] == ["hf", "upload", "user/repo", str(folder), "."]
    published = {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for pattern in words[6::2]
        for file in folder.glob(pattern)
    }
    names = {"README.md", "results.json", "run.json", "prompt_learner/model.pth.tar-1"}
    assert published.keys() == names
    Image.new("RGB", (40, 50), "red").save(tmp_path / "IMAGE", "PNG")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "--model-dir", str(folder), "IMAGE"]) == 0
    expected = capsys.readouterr().out
    (command,) = [line for line in text.splitlines() if line.startswith("promptedclip ")]
    with stand_in(published, monkeypatch, tmp_path / "cache"):
        assert commands.main(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out == expected
        run = load_run("hf://user/repo")
        assert repr(run).startswith("<Run of CoOp, 4 classes, '")
        assert info(capsys, "hf://user/repo")[0] == 0


def test_emoji_alone_is_the_clip_and_names_of_methods_are_methods(tmp_path, capsys, monkeypatch):
    for name in ("emoji", "CoOp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert main(["info", "emoji"]) == 0
    said = "emoji: image side class token, text side causal\nRun: "
    assert capsys.readouterr().out.startswith(said)
    assert commands.main(["info", "CoOp"]) == 0
    assert "TRAINER.COOP.N_CTX 16\n" in capsys.readouterr().out
    for call, prefix in ((main, "python -m benchmark"), (commands.main, "promptedclip")):
        for name in ("emoji", "CoOp"):
            assert call(["info", name, "--format", "json"]) == 2
            said = capsys.readouterr().err
            assert f"{prefix} info: --format json is for runs, and '{name}' is not" in said
        assert call(["info", "CoPromt"]) == 2
        said = capsys.readouterr().err
        assert "neither a run nor a method (did you mean 'CoPrompt'?" in said
        assert "As a CLIP: No backbone and no file is called 'CoPromt'" in said
    assert commands.main(["inform"]) == 2
    assert "promptedclip: There is no command 'inform': did you mean" in capsys.readouterr().err
    assert main(["info", "./emoji"]) == 2 and "no run to load" in capsys.readouterr().err
    assert commands.main(["info"]) == 0
    assert "\nZeroshotCLIP  " in capsys.readouterr().out


def test_a_method_says_its_own_docstring(monkeypatch, capsys):
    monkeypatch.setitem(METHODS, "Silent", type("Silent", (METHODS["CoOp"],), {}))
    for name, said in (("CoOp", True), ("Silent", False)):
        assert main(["info", name]) == 0
        assert ("One learned textual prompt" in capsys.readouterr().out) == said
