"""The plug-in in another checkout of the CoOp family, next to its trainers and edited `clip`."""

import functools
import json
import sys
from pathlib import Path

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.utils import load_checkpoint
from other_checkout import EDITED, TWO_LINES, plug_in, run_in, write_checkout
from paths import GOLDEN, ROOT
from yacs.config import CfgNode

from benchmark.__main__ import main
from trainers.prompting import extend_cfg
from trainers.prompting.building.config import resolve, values_in
from trainers.prompting.method import METHODS
from trainers.prompting.node import read_node
from trainers.prompting.record.predictions import read_predictions

# Those of methods that share a node with trainers of other checkouts, and one of another method.
NODES = "COOP", "COCOOP"
FILES = sorted((ROOT / "configs" / "trainers").rglob("*.yaml"))
FILES = [file for file in FILES if getattr(METHODS.get(file.parent.name), "node", "") in NODES]
FILES.append(ROOT / "configs" / "trainers" / "ALIGN" / "base2new.yaml")
# CTX_INIT in the nodes of public codes: words or a switch.
KINDS = {
    "CoOp, MaPLe, PromptSRC": {"COOP": "", "COCOOP": ""},
    "KgCoOp, ProGrad, TCP": {"COOP": False, "COCOOP": False},
    "ATPrompt": {"COOP": False, "COCOOP": ""},
    "DePT, SkipTuning": {"COOP": "", "COCOOP": "a photo of a"},
}
# Command lines of public codes, and the settings that the method reads from them.
LINES = {
    "CoOp": ("TRAINER.COOP.N_CTX 4 TRAINER.COOP.CSC True TRAINER.COOP.CLASS_TOKEN_POSITION middle",
             {"N_CTX": 4, "CSC": True, "CLASS_TOKEN_POSITION": "middle", "CTX_INIT": ""}),
    "CoOp, words": ("TRAINER.COOP.CTX_INIT a_photo_of_a", {"CTX_INIT": "a_photo_of_a"}),
    "CoOp, none": ("TRAINER.COOP.CTX_INIT False", {"CTX_INIT": ""}),
    "CoCoOp, words": ("TRAINER.COCOOP.CTX_INIT a_photo_of_a", {"CTX_INIT": "a_photo_of_a"}),
    "CoCoOp, none": ("TRAINER.COCOOP.CTX_INIT ''", {"CTX_INIT": ""}),
    "KgCoOp": ("TRAINER.COOP.N_CTX 4 TRAINER.COOP.CSC False TRAINER.COOP.W 8.0",
               {"N_CTX": 4, "CSC": False, "W": 8.0, "CTX_INIT": False}),
    "KgCoOp, on": ("TRAINER.COOP.CTX_INIT True", {"CTX_INIT": True}),
    "KgCoOp, words": ("TRAINER.COOP.CTX_INIT a_photo_of_a", {"CTX_INIT": "a_photo_of_a"}),
    "ProGrad": ("TRAINER.COOP.CTX_INIT True LOSS.LAMBDA 0.8", {"CTX_INIT": True, "LAMBDA": 0.8}),
    "TCP": ("TRAINER.COOP.W 1.0 TRAINER.COOP.N_CTX 4", {"N_CTX": 4, "CTX_INIT": False}),
}  # fmt: skip


# A run in a folder of MaPLe's scripts, and the keys by which it leaves a record.
RUN = "base2new/train_base/Squares/shots_4/ALIGN/base2new/seed1"
RECORDED = "TEST.RECORD True SEED 1 DATASET.NUM_SHOTS 4 DATASET.SUBSAMPLE_CLASSES base"

# A plug-in method, which a third line imports.
SHALLOW = """
from dataclasses import dataclass

from trainers.prompting.registry import register
from trainers.prompting.methods.coop import CoOp

@register
class Shallow(CoOp):
    node = "SHALLOW"

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        N_CTX: int = 3
"""


@pytest.mark.parametrize(
    "order, details", [("before", EDITED), pytest.param("after", {}, marks=pytest.mark.slow)]
)
def test_next_to_the_trainers_and_clip_of_another_checkout(tmp_path, order, details, capsys):
    tiny = str(GOLDEN / "tiny_clip_seed0.safetensors")
    theirs = [("CoOp", "small", ""), ("VPT", "small", "")]
    write_checkout(tmp_path / "without", **details)
    run_in(tmp_path / "without", *theirs)

    checkout = tmp_path / "with"
    lines = "import trainers.prompting\nimport shallow"
    write_checkout(checkout, **details, **TWO_LINES, **{order: lines})
    (checkout / "shallow.py").write_text(SHALLOW)
    plug_in(checkout)
    told, _ = run_in(
        checkout,
        theirs[0],
        ("ALIGN", tiny, f"--output-dir out/{RUN} {RECORDED} TRAINER.ALIGN.DEPTH 2"),
        ("PromptedCoOp", tiny, ""),
        theirs[1],
        ("PromptedVPT", tiny, "TRAINER.VPT.PROMPT_DEPTH_VISION 2"),
        ("ZeroshotCLIP", "small", "--eval-only"),
        ("PromptedZeroshotCLIP", tiny, ""),
        ("MaPLe", "emoji", "TRAINER.MAPLE.PROMPT_DEPTH 2"),
        ("Shallow", tiny, "TRAINER.SHALLOW.N_CTX 2"),
        ("IVLP", "", ""),
        ("UPT", tiny, "--output-dir= TEST.RECORD True"),
    )
    ours = "trainers.prompting.trainer.trainer"
    assert told.pop("MaPLe") == ours  # the embedded CLIP comes with the plug-in
    assert "No backbone is named" in told.pop("IVLP")
    assert "TEST.RECORD True writes into the output folder" in told.pop("UPT")
    assert told == {
        "CoOp": "trainers.coop",
        "ALIGN": ours,
        "PromptedCoOp": ours,
        "VPT": "trainers.vpt",
        "PromptedVPT": ours,
        "ZeroshotCLIP": "trainers.zsclip",
        "PromptedZeroshotCLIP": ours,
        "Shallow": ours,
        "clip": [str(checkout / "clip" / "__init__.py"), str(checkout / "clip" / "clip.py")],
    }
    for name, _, _ in theirs:  # bit for bit the same as without the plug-in
        file = Path("out", name, "prompt_learner", "model.pth.tar-1")
        states = [
            load_checkpoint(str(tmp_path / w / file))["state_dict"] for w in ("with", "without")
        ]
        assert states[0]["ctx"].abs().sum() > 0
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    run = checkout / "out" / RUN
    assert (run / "MultiModalPromptLearner" / "model.pth.tar-1").is_file()
    assert len(read_predictions(run)["label"]) == 6
    assert main(["report", str(checkout / "out"), "--format", "json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["folder"], found["trainer"], found["seed"]) == (str(run), "ALIGN", 1)
    assert not list(checkout.glob("out/[!b]*/results.json"))  # without the key
    context = load_checkpoint(str(checkout / "out/PromptedCoOp/prompt_learner/model.pth.tar-1"))
    assert len(context["state_dict"]["ctx"]) == 7  # as the checkout's own node says


# Code that hides a package: it cannot be imported, or it is not installed as a distribution.
NO_MODULE = """
import sys
sys.modules[{name!r}] = None
"""
NO_CLIP = """
import importlib.metadata

def none(name, found=importlib.metadata.distribution):
    if "clip" in name:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.distribution = none
"""
MISSING = {
    "clip": (NO_CLIP, "run `pip install clip-anytorch`"),
    "ftfy": (NO_MODULE.format(name="ftfy"), "run `pip install ftfy`"),
}


@pytest.mark.slow
def test_without_safetensors_only_files_of_that_kind_cannot_be_read(tmp_path, tiny_clip):
    write_checkout(tmp_path, **TWO_LINES, before="import trainers.prompting")
    plug_in(tmp_path)
    marks = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}  # OpenAI's
    state = tiny_clip.state_dict() | {name: torch.tensor(n) for name, n in marks.items()}
    torch.save(state, tmp_path / "clip.pt")
    told, _ = run_in(
        tmp_path,
        ("CoOp", "small", ""),
        ("PromptedCoOp", str(GOLDEN / "tiny_clip_seed0.safetensors"), ""),
        ("PromptedVPT", "clip.pt", "TRAINER.VPT.PROMPT_DEPTH_VISION 2"),
        first=NO_MODULE.format(name="safetensors"),
    )
    assert (
        told["CoOp"] == "trainers.coop"
        and told["PromptedVPT"] == "trainers.prompting.trainer.trainer"
    )
    assert "No module named 'safetensors" in told["PromptedCoOp"]


@pytest.mark.parametrize("package", ["clip", pytest.param("ftfy", marks=pytest.mark.slow)])
def test_the_checkouts_own_trainers_run_if_a_package_that_we_need_is_missing(tmp_path, package):
    first, remedy = MISSING[package]
    write_checkout(tmp_path, **TWO_LINES, before="import trainers.prompting")
    plug_in(tmp_path)
    told, printed = run_in(tmp_path, ("CoOp", "small", ""), first=first)
    assert told["CoOp"] == "trainers.coop"
    (warning,) = (line for line in printed.splitlines() if line.startswith("warning: "))
    assert remedy in warning


def test_a_python_that_is_too_old_is_a_warning(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 10, 18))
    cfg = get_cfg_default()
    extend_cfg(cfg)
    assert "Python 3.11 or newer is needed" in capsys.readouterr().out
    assert "ALIGN" not in cfg.TRAINER


@functools.cache
def cfg_in(kind):
    """Return the cfg of a kind of checkout, or of one without nodes, with those of the plug-in."""
    cfg, nodes = get_cfg_default(), KINDS.get(kind, {})
    for name, start in nodes.items():
        cfg.TRAINER[name] = CfgNode({"N_CTX": 16, "CTX_INIT": start, "PREC": "fp16"})
    extend_cfg(cfg)
    for name, start in nodes.items():  # the checkout's trainers read CTX_INIT as true or false
        assert bool(cfg.TRAINER[name].CTX_INIT) == bool(start)
    return cfg


def settings_in(kind, method, file=None, pairs=""):
    """Return a method's settings in a kind of checkout, from a config file and a command line."""
    cfg = cfg_in(kind).clone()
    if file:
        cfg.merge_from_file(str(file))
    cfg.merge_from_list(pairs.split())
    cfg.freeze()
    of = METHODS[method]
    return read_node(of, values_in(resolve(cfg), of), "Caltech101")


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_config_files_mean_the_same_for_words_and_for_a_switch(file):
    expected = settings_in("", file.parent.name, file)
    for kind in KINDS:
        assert settings_in(kind, file.parent.name, file) == expected, kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("line", LINES)
def test_public_command_lines_are_read_in_each_kind_of_checkout(kind, line):
    pairs, expected = LINES[line]
    method, _, _ = line.partition(",")
    found = vars(settings_in(kind, method, pairs=pairs))
    assert {key: found[key] for key in expected} == expected
