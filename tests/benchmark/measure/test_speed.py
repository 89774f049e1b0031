"""Tests of `measure speed`: its counts, comparisons and tables, but not its times.

The file is long because all of them measure one tiny backbone, which is built once.
"""

import copy
import json
import multiprocessing
import os
import signal
import warnings
from itertools import count
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from paths import ROOT

from benchmark.__main__ import main
from benchmark.measure import case, counting, speed, speed_tables
from benchmark.measure.case import Case, Model
from benchmark.measure.counting import launches, operations
from benchmark.measure.geometry import BERT, SIGLIP
from benchmark.measure.process import OutOfMemory, in_process
from benchmark.measure.waits import note_waits
from trainers.prompting.capabilities.unlabelled import Unlabelled
from trainers.prompting.method import METHODS

TINY = (64, 64, 12, 128, 8, 77, 49408, 128, 2, 12)  # as deep as ViT-B, a sixth as wide
TRAINED = [
    name for name, kind in METHODS.items() if kind.trains and not issubclass(kind, Unlabelled)
]
# Transport, or other comparisons of several prompts.
TRANSPORT = ("ALIGN", "GalLoP", "LoCoOp", "MMP", "PLOT", "PLOTPP", "SOTGLP")
# Operations (10^6) of a step of two images and seven classes on TINY, as counted.
MEGAFLOP = {
    "ALIGN": 7127.2, "CLAP": 0.0036, "CLIPAdapter": 625.5, "CLIPLoRA": 1612.7, "CoCoOp": 1453.6,
    "CoOp": 1039.5, "CoPrompt": 2281.7, "GalLoP": 2512.8, "IVLP": 1654.3, "KgCoOp": 1039.5,
    "MaPLe": 1656.1, "MultiModalAdapter": 1246.3, "MMP": 7116.4, "MMRL": 1641.6, "PLOT": 2330.9,
    "ProGrad": 1251.9, "PromptSRC": 2325.6, "TCP": 980.1, "TipAdapterF": 625.5, "UPT": 1789.7,
    "VPT": 1500.2, "LNOnly": 1611.5, "TwoSFS": 1611.5, "TaskRes": 625.5, "LoCoOp": 1079.6,
    "PLOTPP": 6598.5, "SOTGLP": 3914.9, "MMRLpp": 1663.3, "ProLIP": 0.0691,
    "NLPrompt": 1039.5, "HiCroPL": 2289.3, "CLIPSVD": 5847.9, "TextRefiner": 1095.0,
    "SkipTuning": 1357.2, "BiomedCoOp": 916.3, "DualCoOp": 1485.2, "RAM": 2182.6, "MMAPP": 2365.0,
    "AWTFewShot": 16805.6,
}  # fmt: skip
# Launches of such a step as counted: an accelerator's path, and public code, all deep like ViT-B.
LAUNCHES = {
    "ALIGN": (1975, 2787), "CoOp": (451, 673), "MaPLe": (833, 1129), "PromptSRC": (931, 1256),
}  # fmt: skip
SMALL = ["--classes", "5", "--batch", "1", "--eval-batch", "2", "--repeats", "1", "--threads", "1"]


@pytest.fixture
def tiny(monkeypatch):
    """Return words for the command on a backbone called `tiny`, with a small matrix product."""
    monkeypatch.setitem(speed.GEOMETRY, "tiny", TINY)
    monkeypatch.setitem(speed.PRODUCT, "cpu", 128)
    return ["measure", "speed", "--backbone", "tiny", *SMALL]


@pytest.fixture(autouse=True, scope="module")
def built_once():
    """Copy the untrained CLIP of most cases: its weights do not matter."""
    build = case.untrained_clip
    built = build(TINY)
    case.untrained_clip = lambda which: copy.deepcopy(built) if which == TINY else build(which)
    yield
    case.untrained_clip = build


@pytest.fixture
def inline(tiny, monkeypatch):
    """As `tiny`, but measurements run in this process."""
    monkeypatch.setattr(speed, "in_process", lambda function, *args: function(*args))
    return tiny


@pytest.fixture
def measured(inline, tmp_path, capsys):
    """Return a function that gives the records of a measurement, and what it prints."""

    def call(*words):
        file = tmp_path / "speed.json"
        assert main([*inline, *words, "--format", "markdown", "--json", str(file)]) == 0
        found, (out, err) = json.loads(file.read_text()), capsys.readouterr()
        assert found["arguments"]["classes"] == [5] and found["torch"] == torch.__version__
        return found["records"], out, err

    return call


def model(trainer="ALIGN", classes=5, batch=1, **more):
    return Model(Case(trainer, TINY, classes, batch, "cpu", "fp32", 1, **more))


def cells(text: str, name: str) -> list[str]:
    """Return the cells of a case in Markdown tables."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for line in lines for cell in line.strip("|").split("|")]


# ---------------------------------------------------------------------- the whole command


@pytest.mark.slow
def test_the_tables_show_what_the_file_has(measured):
    (record,), out, err = measured("--trainers", "ALIGN")
    assert "ALIGN, 5 classes, fp32: step 1 of 1" in err
    training, evaluation = record["training"], record["evaluation"]
    assert f"{training['operations'] / 1e12:.3g}" in cells(out, "ALIGN, 5, fp32")
    shown = cells(out, "ALIGN, 5, fp32")
    for part in (training["seconds"], evaluation["seconds"], evaluation["encoder_seconds"]):
        assert speed_tables.spread(part) in shown
    assert f"{training['peak_mib'] / 1024:.1f} GiB" in shown or training["peak_mib"] < 1024
    for share in ("of_peak", "transport_share", "encoders_of_peak"):
        assert training[share] > 0 and f"{training[share]:.0%}" in shown


@pytest.mark.parametrize("how", ["inline", pytest.param("tiny", marks=pytest.mark.slow)])
def test_a_plug_in_is_measured_here_and_in_separate_processes(how, request, plugged, capfd):
    words = ["--trainers", "PluggedShift", "--plugin", plugged, "--format", "markdown"]
    assert main([*request.getfixturevalue(how), *words]) == 0
    out, err = capfd.readouterr()
    assert out.count("\n| PluggedShift, 5, fp32 ") == 2  # it trains, although it has no prompts
    assert "PluggedShift, 5 classes, fp32: evaluation 1 of 1" in err


@pytest.mark.slow
def test_shares_of_the_peak_do_not_see_what_other_programs_take(measured, monkeypatch):
    """Each call waits an hour for the processor."""
    hours, clock = count(), counting.time.perf_counter
    monkeypatch.setattr(counting.time, "perf_counter", lambda: clock() + 3600 * next(hours))
    both, calls = speed.both_times, []
    monkeypatch.setattr(speed, "both_times", lambda times: calls.append(times) or both(times))
    (record,), *_ = measured("--trainers", "ALIGN")
    for part in (record["training"], record["evaluation"]):
        (wall,), (processor,), rate = part["seconds"], part["processor_seconds"], part["peak_rate"]
        assert wall > 3600 > processor and rate > 2 * 128**3  # a second for a product
        assert part["bound"] == pytest.approx(part["operations"] / rate)
        assert part["of_peak"] == pytest.approx(part["bound"] / processor)
    (score,), (step,) = (record["training"][key] for key in ("score_seconds", "processor_seconds"))
    assert record["training"]["transport_share"] == pytest.approx(score / step) and score < 60
    ((_, whole),), ((_, encoder),) = calls[-2:]
    assert record["evaluation"]["over_encoder"] == pytest.approx(whole / encoder)  # walls: 1


@pytest.mark.slow
def test_each_set_of_settings_has_a_row(measured):
    words = ["--trainers", "ALIGN", "--set", "M=1", "--set", "M=2", "N=1"]
    (one, other), out, _ = measured(*words)
    assert [one["settings"], other["settings"]] == [{"M": 1}, {"M": 2, "N": 1}]
    for record, name in ((one, "ALIGN, 5, fp32, M 1"), (other, "ALIGN, 5, fp32, M 2, N 1")):
        for part in ("training", "evaluation"):
            assert f"{record[part]['bound']:.3g}" in cells(out, name)
    counted = [record["evaluation"]["operations"] for record in (one, other)]
    assert 1.8 < counted[1] / counted[0] < 2.2  # images are encoded M times, texts are kept


# Transport, tokens, and updates; prompts that adapt, a stream, support, all images together.
DIFFERENT = ["ALIGN", "GalLoP", "CLIPLoRA", "TPT", "TDA", "TipAdapterF", "ProLIP", "TransCLIP"]


@pytest.mark.parametrize(
    "asked",
    [["ZeroshotCLIP", "CoOp"], pytest.param(DIFFERENT, marks=pytest.mark.slow)],
    ids=["few", "more"],
)
def test_methods_side_by_side(measured, monkeypatch, asked):
    every = {
        name: kind
        for name, kind in METHODS.items()
        if name in asked or issubclass(kind, Unlabelled)
    }
    monkeypatch.setattr(speed, "METHODS", every)  # all that are labelled, if none is named
    records, out, _ = measured("--precision", "amp")
    assert {record["trainer"] for record in records} == {*asked}
    for record in records:
        assert ("training" in record) == (record["trainer"] in TRAINED)
        assert record["evaluation"]["images_per_second"] > 0
        transport = record["trainer"] in TRANSPORT
        if "training" in record:
            assert (record["training"]["transport_share"] is not None) == transport
    assert all(out.count(f"{name}, 5, amp") == 1 + (name in TRAINED) for name in asked)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["training", "evaluation"])
def test_out_of_memory_ends_one_case_only(measured, part, monkeypatch):
    measure = getattr(speed, part)

    def full(case, *args):
        if case.trainer == "MaPLe":
            raise OutOfMemory
        return measure(case, *args)

    monkeypatch.setattr(speed, part, full)
    (maple, coop), out, err = measured("--trainers", "MaPLe", "CoOp")
    assert "MaPLe, 5 classes, fp32: out of memory" in err
    assert maple.pop(part) == {"problem": "out of memory"}
    assert maple["evaluation" if part == "training" else "training"]["seconds"]
    assert coop["training"]["seconds"] and coop["evaluation"]["seconds"]
    assert "out of memory" in cells(out, "MaPLe, 5, fp32")


# ---------------------------------------------------------------------- parts of the command


@pytest.mark.parametrize("trainer", slow_but(TRAINED, "ALIGN", "CoOp"))
def test_a_step_takes_no_more_operations_than_it_did(trainer):
    """The counts are at most 1.2 times the operations that no shortcut can avoid."""
    subject = model(trainer, classes=7, batch=2)
    subject.step()
    assert operations(subject.step) / 1e6 <= 1.02 * MEGAFLOP[trainer]
    if trainer in LAUNCHES:
        own, public = LAUNCHES[trainer]
        subject.method.text_encoder.packs_on = ()
        assert launches(subject.step) <= 1.02 * own <= 0.8 * public


def test_launches_are_operators_without_views():
    x = torch.ones(2, 3)
    assert launches(lambda: x.T[:1].add(1).mul_(2)) == 2


def test_attention_is_counted():
    """Two products forward, four backward, and the scores once more."""

    def attend():
        q, k = (torch.rand(2, 3, n, 8, requires_grad=True) for n in (5, 7))
        F.scaled_dot_product_attention(q, k, k).sum().backward()

    product = 2 * (2 * 3) * 5 * 7 * 8
    assert operations(attend) == 7 * product


@pytest.mark.slow
def test_operations_of_training_within_an_evaluation_are_counted():
    """TPT takes gradients by prompts alone, in an evaluation."""
    subject = model("TPT", training=False)
    once = operations(subject.encode_images)
    assert operations(subject.evaluate) > once > 0


def eat(case):
    assert case.trainer in METHODS, "the process has loaded its plug-in"
    torch.ones(1 << 45)


def die(case):
    os.kill(os.getpid(), signal.SIGKILL)  # as the system does when memory has run out


@pytest.mark.slow
@pytest.mark.parametrize("function", [eat, die])
def test_a_process_that_runs_out_of_memory_is_reported(function, plugged):
    with pytest.raises(OutOfMemory):
        in_process(function, Case("PluggedShift", TINY, 5, 1, "cpu", "fp32", 1, plugins=(plugged,)))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--backbone ViT-B/61", "argument --backbone: invalid choice: 'ViT-B/61'"),
        ("--trainers ALIGN Maple", "There is no trainer 'Maple': did you mean 'MaPLe'?"),
        ("--precision fp16", "--precision fp16 needs --device cuda"),
        ("--classes 10 1", "argument --classes: '1' is not a whole number, 2 or more"),
        ("--set M", "argument --set: 'M' is not KEY=VALUE, as M=8"),
        ("--trainers ALIGN --set BETTA=0", "There is no setting of ALIGN 'BETTA': did you mean"),
        ("--public . --trainers ALIGN --set BETA=0", "--set is passed on to public code"),
        ("--public nowhere", "'nowhere' has no train.py and no trainers"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, monkeypatch, refusal):
    monkeypatch.setattr(speed, "in_process", None)  # refused before any process is started
    assert sentence in refusal("speed", *words.split())


def test_a_file_that_cannot_be_written_is_reported(inline, tmp_path, capsys):
    (tmp_path / "file").touch()
    words = ["--trainers", "ZeroshotCLIP", "--json", str(tmp_path / "file" / "speed.json")]
    assert main([*inline, *words]) == 1
    said = "cannot be written or read (File exists): a folder belongs there: remove that file"
    assert said in capsys.readouterr().err


def test_waits_are_noted_only_inside(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: "default")
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with note_waits() as waits:
        warnings.warn("does not yet detect all synchronizing operations", stacklevel=1)
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
    assert modes == ["warn", "default"]
    assert [wait.partition(":")[0] for wait in waits] == [str(Path(__file__).relative_to(ROOT))]


@pytest.mark.slow
def test_a_step_on_siglip_is_measured(inline, monkeypatch, capsys):
    """The operations of its blocks are those of all positions of all sentences."""
    monkeypatch.setitem(SIGLIP, "tiny siglip", (64, 32, 2, 64, 16, 24, 49408, 128, 2, 3))
    words = ["--backbone", "tiny siglip", "--trainers", "CoOp", "--classes", "5"]
    assert main([*inline, *words, "--format", "markdown"]) == 0
    assert cells(capsys.readouterr().out, "CoOp, 5, fp32")
    small, large = (
        operations(Model(Case("CoOp", SIGLIP["tiny siglip"], k, 1, "cpu", "fp32", 1)).step)
        for k in (10, 20)
    )
    # two whole blocks forward and backward, and the last one's keys and values
    assert large - small > 10 * 24 * 2 * 128**2 * (2 * 12 + 2) * 2


def test_sentences_of_bert_are_not_padded_to_the_context(inline, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    for name, length in (("tiny", 32), ("long", 256)):
        monkeypatch.setitem(BERT, name, (64, 32, 2, 64, 16, length, 49408, 128, 2, 3))
    words = ["--backbone", "tiny", "--trainers", "CoOp", "--classes", "5"]
    assert main([*inline, *words, "--format", "markdown"]) == 0
    assert cells(capsys.readouterr().out, "CoOp, 5, fp32")
    short, long = (
        operations(Model(Case("CoOp", BERT[name], 5, 1, "cpu", "fp32", 1)).step)
        for name in ("tiny", "long")
    )
    assert short == long
