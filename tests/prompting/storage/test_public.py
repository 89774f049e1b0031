"""Checkpoints of public code that does not use Dassl's folders: read, written, and refused."""

import argparse
import os
import shutil

import golden_files
import pytest
import torch
from dassl.utils import UserError as OfDassl
from paths import GOLDEN
from tiny import learned, results, run

from benchmark.__main__ import main
from trainers.prompting import UserError as Ours
from trainers.prompting import build_method, register
from trainers.prompting.checkpoint.public import PublicFiles, names_beside, public_checkpoint
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp


class Filed(PublicFiles, CoOp):
    """A CoOp whose public code writes two files, one of them a bare tensor."""

    public_files = ("half_*.pt", "rest_*.pt")

    def read_public(self, files):
        if len(files) < 2:
            raise Ours("there is no rest")
        ctx = torch.cat([files["half_*.pt"], files["rest_*.pt"]["ctx"]])
        return Saved(state_dict={"ctx": ctx})

    def write_public(self):
        half, rest = self.prompt_learner.ctx.detach().split([8, 8])
        args = argparse.Namespace(shots=4)
        return {"half_*.pt": half.clone(), "rest_*.pt": {"ctx": rest.clone(), "args": args}}


@pytest.fixture
def filed(monkeypatch):
    monkeypatch.setitem(METHODS, "Filed", Filed)
    register(Filed)


class Trap:
    """An object whose pickle runs a command."""

    def __reduce__(self):
        return os.mkdir, ("trapped",)


def accuracy(folder):
    return results(folder)["accuracy"]


def test_files_are_written_and_read(filed, tmp_path, capsys):
    trained, public = tmp_path / "trained", tmp_path / "public"
    assert run(tmp_path, "Filed", trained, 1) == 0
    words = ["export", "--model-dir", str(trained), "--output", str(public / "half_4shots.pt")]
    assert main(words) == 0
    assert sorted(os.listdir(public)) == ["half_4shots.pt", "rest_4shots.pt"]
    for name in ("", "half_4shots.pt"):
        out = tmp_path / f"evaluated{name}"
        flags = ("--eval-only", "--model-dir", str(public / name))
        assert run(tmp_path, "Filed", out, 1, *flags) == 0
        assert accuracy(out) == accuracy(trained)
    started = tmp_path / "started"
    init = ["MODEL.INIT_WEIGHTS", str(public), "OPTIM.LR", "0.0"]
    assert run(tmp_path, "Filed", started, 1, extra=init) == 0
    assert torch.equal(learned(started, 1)["ctx"], learned(trained, 1)["ctx"])
    assert main([*words[:-1], str(public / "half.pth")]) == 2
    assert "half_*.pt" in capsys.readouterr().err


def test_files_that_are_refused(tiny_clip, tmp_path, monkeypatch):
    method = build_method("CoOp", {}, tiny_clip, ["forest", "sea"])
    assert public_checkpoint(method, str(tmp_path)) is None
    method.__class__ = Filed
    monkeypatch.chdir(tmp_path)
    half = torch.zeros(8, 128)
    for content, why in (
        (half, "there is no rest"),
        (None, "is broken"),
        ({"ctx": half, "x": Trap()}, "could run foreign code"),
    ):
        torch.save(content, "half_a.pt")
        if content is None:
            with open("half_a.pt", "wb") as file:
                file.write(b"no checkpoint")
        with pytest.raises((Ours, OfDassl), match=why):
            public_checkpoint(method, ".")
        assert not os.path.exists("trapped")
    torch.save(half, "half_b.pt")
    with pytest.raises(Ours, match=r"'\.' holds several checkpoints \(half_a.pt, half_b.pt"):
        public_checkpoint(method, ".")


@pytest.mark.parametrize(
    ("name", "together"),
    [
        ("lora.pt", {"lora.pt": "lora.pt"}),
        ("a_1.pt", {"a_*.pt": "a_1.pt", "b_*": "b_1"}),
        ("b_1.pt", {"a_*.pt": "a_1.pt.pt", "b_*": "b_1.pt"}),
        ("a_.pt", {}),
        ("lora.pt2", {}),
    ],
)
def test_which_names_belong_together(name, together):
    patterns = ("lora.pt",) if name.startswith("lora") else ("a_*.pt", "b_*")
    assert names_beside(name, patterns) == together


# ------------------------------------------------------------------ files of the public codes

FILES = {
    "cliplora": "vitb16/eurosat/1shots/seed0/lora_weights.pt",
    "gallop": "gallop_eurosat_vit_b16_seed1.ckpt",
    "sotglp": "sotglp_eurosat_vit_b16_seed1.ckpt",
}
CACHES = GOLDEN / "tip_adapter_f_checkpoint" / "caches" / "eurosat"


@pytest.fixture(params=FILES)
def golden(request):
    return golden_files.read(GOLDEN / f"{request.param}.safetensors")


def public_path(golden) -> str:
    name = golden.meta["method"].lower()
    return str(GOLDEN / f"{name}_checkpoint" / FILES[name])


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    else:
        assert torch.equal(one, other) if torch.is_tensor(one) else one == other


def test_files_of_the_public_code(golden, tiny_clip, tmp_path):
    method = golden_files.build(golden, tiny_clip, tmp_path)
    for parameter in method.public_parameters().values():
        parameter.data.zero_()
    path = public_path(golden)
    method.load_checkpoint(public_checkpoint(method, path), golden.meta["classnames"])
    state = method.public_state_dict()
    assert state.keys() == golden.params.keys()
    assert all(torch.equal(state[name], value) for name, value in golden.params.items())
    logits = method.eval()(golden.tensors["image"])
    assert golden_files.near(logits, golden.tensors["logits_eval"])

    (own,) = method.write_public().values()
    theirs = torch.load(path, weights_only=False)
    assert own.keys() <= theirs.keys()
    assert_same(own, {key: theirs[key] for key in own})


@pytest.mark.parametrize(
    ("name", "node", "why"),
    [
        ("cliplora", {"R": 1}, r"with r 2, but TRAINER\.CLIPLORA\.R is 1"),
        ("cliplora", {"PARAMS": ["q", "v"]}, r"with params \['q', 'k', 'v'\], but"),
        ("gallop", {"TOPK": [5]}, r"with topk \[5, 10, 15, 20\], but TRAINER.GALLOP.TOPK is \[5\]"),
        ("gallop", {"N_GLOBAL_PROMPTS": 2}, "'global_prompt' has shape"),
        ("sotglp", {"TOPK": [5]}, r"with topk \[10, .*\], but TRAINER.SOTGLP.TOPK is \[5\]"),
    ],
)
def test_of_other_settings(tiny_clip, tmp_path, name, node, why):
    golden = golden_files.read(GOLDEN / f"{name}.safetensors")
    node = golden_files.node_of(golden, **node)
    names = golden.meta["classnames"]
    method = build_method(golden.meta["method"], node, tiny_clip, names)
    with pytest.raises(Ours, match=why):
        method.load_checkpoint(public_checkpoint(method, public_path(golden)), names)


@pytest.mark.parametrize(
    ("name", "logits", "written"),
    [
        ("TipAdapter", "tip/logits", ["keys_2shots.pt", "values_2shots.pt"]),
        ("TipAdapterF", None, ["best_F_2shots.pt", "values_2shots.pt"]),
    ],
)
def test_a_cache(tiny_clip, name, logits, written):
    golden = golden_files.read(GOLDEN / "tip_adapter_f.safetensors")
    names = golden.meta["classnames"]
    node = {"INIT_ALPHA": 2.0, "SEARCH_HP": False, "SCALE": 100.0}  # of the public code
    method = build_method(name, node, tiny_clip, names, golden.meta["dataset"])
    method.load_checkpoint(public_checkpoint(method, str(CACHES)), names)
    if logits:
        found = method.eval()(golden.tensors["image"])
        assert golden_files.near(found, golden.tensors[logits])
    else:
        assert torch.equal(method.adapter.weight, golden.tensors["steps/best_weight"])
    contents = method.write_public()
    assert [key.replace("*", "2shots") for key in contents] == written
    for file, content in zip(written, contents.values(), strict=True):
        theirs = torch.load(CACHES / file, weights_only=True)
        assert type(content) is type(theirs) and torch.equal(content, theirs)
    other = build_method(name, node, tiny_clip, names[:3])
    with pytest.raises(Ours, match="is of 6 classes, but there are 3"):
        other.load_checkpoint(public_checkpoint(other, str(CACHES / written[0])), names[:3])


def test_a_cache_without_labels(tiny_clip, tmp_path):
    shutil.copy(CACHES / "best_F_2shots.pt", tmp_path)
    method = build_method("TipAdapterF", {}, tiny_clip, ["forest", "sea"])
    with pytest.raises(Ours, match="TipAdapterF writes it .KeyError 'values_"):
        public_checkpoint(method, str(tmp_path))
