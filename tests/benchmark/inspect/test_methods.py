"""Tests of the table of methods, and of the words nearest to learned contexts."""

import functools
import importlib
import re

import pytest
import torch
from cases import slow_but
from models import settings
from paths import ROOT
from tiny import run

from benchmark.__main__ import main
from benchmark.inspect import methods
from benchmark.inspect.methods import build_weightless, count_trained
from trainers.prompting import build_method
from trainers.prompting.capabilities.per_class import make_room
from trainers.prompting.method import METHODS


@pytest.fixture(autouse=True, scope="module")
def built_once():
    """Build each method of the tables once for all formats."""
    row, methods.row = methods.row, functools.cache(methods.row)
    yield
    methods.row = row


@pytest.mark.slow
def test_the_table_has_every_method(capsys):
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{method} " in shown for method in METHODS)
    table = {method: " ".join(methods.row(method, "ViT-B/16")[1:]) for method in METHODS}
    assert table["MaPLe"] == "1 1 0 project 2 / 2 9 / 9 prompt_learner 3,555,072"
    assert table["ALIGN"] == "4 4 1 project 2 / 2 9 / 9 prompt_learner 3,582,720"
    assert table["PLOTPP"].startswith("4 4 N/A independent ")
    assert table["ZeroshotCLIP"] == "- - - - - - - 0"
    large = f"0 4 N/A none 16 / - 1 / - prompt_learner {4 * 16 * 768:,}"
    assert " ".join(methods.row("PLOT", "ViT-L/14")[1:]) == large


def test_the_page_of_all_methods_is_up_to_date(monkeypatch, capsys):
    ours = {name: kind for name, kind in METHODS.items() if kind.__module__.startswith("trainers.")}
    monkeypatch.setattr(methods, "METHODS", ours)
    assert main(["info", "--style", "page"]) == 0
    page = (ROOT / "docs" / "all_methods.md").read_text("utf-8")
    assert page == capsys.readouterr().out, (
        "python -m benchmark info --style page > docs/all_methods.md"
    )


def test_the_site_adds_what_each_class_says(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    site = importlib.import_module("site_pages")
    page = site.with_docstrings((ROOT / "docs" / "all_methods.md").read_text("utf-8"))
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", page, re.DOTALL | re.MULTILINE))
    assert "A(x) = ReLU(W2 ReLU(W1 x))" in sections["CoPrompt"]
    assert "`base2new`, `cross_dataset`, `emoji`." in sections["CoPrompt"]
    assert "[section 5](methods.md#5-where-align-starts)" in sections["ALIGN"]
    assert all("Config files in `configs" in text for text in sections.values())


def test_one_method_is_told_in_the_terminal(capsys):
    assert main(["info", "CoPrompt"]) == 0
    told = capsys.readouterr().out
    assert "A(x) = ReLU(W2 ReLU(W1 x))" in told and "  TRAINER.W 8.0\n" in told
    assert "arXiv:2306.01195" in told and "base2new, cross_dataset, emoji" in told


def trained_parameters(method, node, backbone="ViT-B/16", classes=2):
    return count_trained(build_weightless(method, node, backbone, classes))


@pytest.mark.slow
def test_parameter_counts_are_those_of_papers_and_models(tiny_clip, monkeypatch):
    """CoCoOp's paper gives 35,360 for four context vectors."""
    assert trained_parameters("CoCoOp", {"N_CTX": 4}) == 35360
    assert trained_parameters("CoOp", {"CSC": True}, classes=10) == 10 * 16 * 512
    network = 512 * 128 + 128 + 128 * 2048 + 2048
    assert trained_parameters("TCP", {}) == 4 * 512 + network
    adapters = 2 * 2 * 512 * 128
    assert trained_parameters("CoPrompt", {}) == trained_parameters("MaPLe", {}) + adapters
    assert trained_parameters("CLIPAdapter", {}) == adapters / 2
    assert trained_parameters("CLAP", {}, classes=10) == 10 * 512
    assert trained_parameters("TipAdapterF", {}, classes=10) == 16 * 10 * 512
    tiny = (64, 32, 4, 128, 8, 77, 49408, 128, 2, 4)
    monkeypatch.setitem(methods.GEOMETRY, "tiny", tiny)
    for method in METHODS:
        node = settings(method)
        built = build_method(method, node, tiny_clip, ["forest", "sea"])
        make_room(built, 32)
        count = sum(p.numel() for p in built.learned().values() if built.trains)
        assert trained_parameters(method, node, "tiny") == count


# A learning rate so small that contexts stay at the words they started from.
STILL = ["OPTIM.LR", "1e-12", "OPTIM.MAX_EPOCH", "1"]
FROM_WORDS = {
    "CoOp": ["TRAINER.COOP.CTX_INIT", "a photo of a"],
    "CoCoOp": ["TRAINER.COCOOP.CTX_INIT", "a photo of a"],
    "UPT": ["TRAINER.UPT.PROMPT_DEPTH", "2"],
    "MaPLe": ["TRAINER.MAPLE.PROMPT_DEPTH", "2"],
    "ALIGN": ["TRAINER.ALIGN.M", "0"],
}


@pytest.mark.parametrize("trainer", slow_but(FROM_WORDS, "CoOp", "ALIGN"))
def test_contexts_that_started_from_words_have_these_as_nearest(tmp_path, capsys, trainer):
    out = tmp_path / "out"
    assert run(tmp_path, trainer, out, 1, extra=[*STILL, *FROM_WORDS[trainer]]) == 0
    capsys.readouterr()
    assert main(["words", "--model-dir", str(out), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Prompt 1"
    words = [line.split()[1:3] for line in lines[1:5] if line.strip()]
    expected = ["a", "photo", "of", "a"][: 2 if trainer in ("MaPLe", "ALIGN") else 4]
    assert words[: len(expected)] == [[word, "(0.0000)"] for word in expected]
    assert lines.count("Prompt 2") == (trainer == "ALIGN")


def test_class_specific_contexts_have_a_block_for_each_class(tmp_path, capsys):
    out = tmp_path / "out"
    node = ["TRAINER.COOP.CSC", "True", "TRAINER.COOP.N_CTX", "3"]
    assert run(tmp_path, "CoOp", out, 1, extra=node) == 0
    capsys.readouterr()
    assert main(["words", "--model-dir", str(out)]) == 0
    blocks = capsys.readouterr().out.strip().split("\n\n")
    names = ["annual crop", "forest", "road", "sea"]
    assert sorted(b.splitlines()[0] for b in blocks) == [f"Class '{n}'" for n in names]
    assert all(len(b.splitlines()) == 4 and b.count("(") >= 15 for b in blocks)


def test_words_without_an_embedding_are_left_out(tiny_clip):
    from benchmark.inspect.words import nearest_words

    model = build_method("CoOp", {"N_CTX": 2}, tiny_clip, ["forest", "sea"])
    table = torch.zeros_like(tiny_clip.token_embedding.weight)
    kept = [320, 1125]  # "a", "photo"
    table[kept] = tiny_clip.token_embedding.weight.detach()[kept]
    model.text_encoder.token_embedding = torch.nn.Embedding.from_pretrained(table)
    rows = nearest_words(model, torch.zeros(2, 128), top=5)
    assert all(sorted(name for name, _ in row) == ["a", "photo"] for row in rows)


def test_runs_without_words_to_show_are_refused(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["words", "--model-dir", str(out)]) == 2
    assert "holds no run to load" in capsys.readouterr().err
    assert run(tmp_path, "VPT", out, 1, extra=["TRAINER.VPT.PROMPT_DEPTH_VISION", "1"]) == 0
    capsys.readouterr()
    assert main(["words", "--model-dir", str(out)]) == 2
    assert "no textual prompts" in capsys.readouterr().err.splitlines()[-1]
    path = out / "prompt_learner" / "model.pth.tar-1"
    checkpoint = torch.load(path, weights_only=False)
    torch.save({**checkpoint, "backbone": "gone.pt"}, path)
    capsys.readouterr()
    assert main(["words", "--model-dir", str(out)]) == 2
    assert "gone.pt" in capsys.readouterr().err.splitlines()[-1]
