"""`python -m benchmark speed`: what it counts, compares and prints; never how long it took."""

import json
import multiprocessing
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from paths import ROOT

from benchmark.__main__ import main
from benchmark.measure import case, speed, speed_tables
from benchmark.measure.case import Case, Model, OutOfMemory, Subject, Worker
from benchmark.measure.geometry import GEOMETRY, necessary_flops
from trainers.prompting import UserError
from trainers.prompting.method import METHODS
from trainers.prompting.trainer.config import prompt_spec

TINY = (64, 64, 12, 128, 8, 77, 49408, 128, 2, 12)  # as deep as ViT-B, a sixth as wide
TRAINED = [name for name in METHODS if name != "ZeroshotCLIP"]
SMALL = ["--classes", "5", "--batch", "1", "--eval-batch", "2", "--repeats", "1", "--threads", "1"]


class Inline:
    """A `Worker` in this process; `full` holds the questions for which there is no memory."""

    full = ()

    def __init__(self, make, *args):
        self.subject = make(*args)

    def ask(self, method, *args):
        naive = isinstance(self.subject, Model) and self.subject.case.naive
        if naive and {method, *args} & set(self.full):
            raise OutOfMemory
        return getattr(self.subject, method)(*args)

    def answer(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        pass


@pytest.fixture
def tiny(monkeypatch):
    """A backbone of that name, and a small matrix product."""
    monkeypatch.setitem(speed.GEOMETRY, "tiny", TINY)
    monkeypatch.setitem(speed.PRODUCT, "cpu", 128)
    threads = torch.get_num_threads()
    yield ["speed", "--backbone", "tiny", *SMALL]
    torch.set_num_threads(threads)


@pytest.fixture
def inline(tiny, monkeypatch):
    monkeypatch.setattr(speed, "Worker", Inline)
    monkeypatch.setattr(Inline, "full", ())
    return tiny


def model(trainer="ALIGN", classes=5, batch=1, **more):
    return Model(Case(trainer, TINY, classes, batch, "cpu", "fp32", 1, **more))


def cells(text: str, name: str) -> list[str]:
    """What stands in the lines of a markdown table's case."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for line in lines for cell in line.strip("|").split("|")]


# ---------------------------------------------------------------------- the whole command


def check_record(text, record):
    """What the issue asks of ALIGN: few operations, the naive logits, and the table says the same.

    With five classes the few positions that are computed and then replaced weigh more than the
    five percent of the true sizes.
    """
    training, evaluation, naive = record["training"], record["evaluation"], record["naive"]
    assert 0.5 < training["over_necessary"] < 1.1
    assert training["operations"] < naive["training"]["operations"]
    assert naive["largest_difference"] <= 1e-4
    assert set(training["necessary"]) == {"image", "text", "similarity", "frozen"}
    shown = cells(text, f"{record['trainer']}, {record['classes']}, {record['precision']}")
    for found in (training["seconds"], evaluation["seconds"], naive["training"]["seconds"]):
        assert speed_tables.spread(found) in shown
    assert f"{training['over_necessary']:.3f}" in shown
    assert f"{training['peak_mib'] / 1024:.1f} GiB" in shown or training["peak_mib"] < 1024
    for ratio in record["ratios"].values():
        assert f"{ratio:.3g}" in shown
    for share in ("of_peak", "transport_share", "encoders_of_peak"):
        assert training[share] > 0 and f"{training[share]:.0%}" in shown
    assert f"differ by {naive['largest_difference']:.1g} at most" in text


def test_the_tables_and_the_file(inline, tmp_path, capsys):
    file = tmp_path / "speed.json"
    words = ["--trainers", "ALIGN", "--naive", "--format", "markdown", "--json", str(file)]
    assert main([*inline, *words]) == 0
    out, err = capsys.readouterr()
    found = json.loads(file.read_text())
    (record,) = found["records"]
    check_record(out, record)
    assert found["arguments"]["classes"] == [5] and found["torch"] == torch.__version__
    assert "ALIGN, 5 classes, naive, fp32: step 1 of 1" in err


def test_processes_of_their_own(tiny, capsys):
    assert main([*tiny, "--trainers", "VPT", "--format", "markdown"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n| VPT, 5, fp32 ") == 2
    assert "VPT, 5 classes, fp32: evaluation 1 of 1" in err


@pytest.mark.slow
def test_compiled_blocks_are_counted_like_the_others(inline, tmp_path, capsys):
    operations = []
    for more in ([], ["--compile"]):
        file = tmp_path / "speed.json"
        assert main([*inline, "--trainers", "ALIGN", *more, "--json", str(file)]) == 0
        assert ("1 threads, compiled, batch" in capsys.readouterr().out) == bool(more)
        (record,) = json.loads(file.read_text())["records"]
        operations.append(record["training"]["operations"])
    assert operations[0] == operations[1]


def test_a_machine_that_cannot_compile(monkeypatch):
    def refuse(function):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", refuse)
    with pytest.raises(UserError, match="--compile does not work here .*: leave it out"):
        model(compile=True)


@pytest.mark.slow
def test_a_backbone_of_the_true_size(tmp_path):
    file = tmp_path / "speed.json"
    words = [*SMALL, "--backbone", "ViT-B/32", "--trainers", "ALIGN", "--naive"]
    words += ["--format", "markdown", "--json", str(file)]
    process = subprocess.run(
        [sys.executable, "-m", "benchmark", "speed", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    (record,) = json.loads(file.read_text())["records"]
    check_record(process.stdout, record)


def test_every_method(inline, tmp_path, capsys):
    file = tmp_path / "speed.json"
    assert main([*inline, "--precision", "amp", "--json", str(file)]) == 0
    records = json.loads(file.read_text())["records"]
    assert [record["trainer"] for record in records] == list(METHODS)
    for record in records:
        assert ("training" in record) == (record["trainer"] in TRAINED)
        assert record["evaluation"]["images_per_second"] > 0
        transport = prompt_spec(record["trainer"], {}).score != "cosine"
        if "training" in record:
            assert (record["training"]["transport_share"] is not None) == transport
    out = capsys.readouterr().out
    assert "Naive reference" not in out
    assert out.count("ZeroshotCLIP, 5, amp") == 1  # it has nothing to train


def test_another_result_has_no_ratio(inline, monkeypatch, capsys):
    output = case.Naive.output

    def other(*args):
        found = output(*args)
        return found._replace(logits=1.001 * found.logits)

    monkeypatch.setattr(case.Naive, "output", other)
    assert main([*inline, "--trainers", "CoOp", "--naive", "--format", "markdown"]) == 1
    out = capsys.readouterr().out
    assert "CoOp, 5, fp32: the naive reference computes other logits" in out
    assert cells(out, "CoOp, 5, fp32")[-3:] == ["-", "-", "-"]


@pytest.mark.parametrize("question", ["first_step", "step", "evaluate"])
def test_out_of_memory_ends_one_case_alone(inline, question, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(Inline, "full", (question,))
    file = tmp_path / "speed.json"
    words = ["--trainers", "CoOp", "MaPLe", "--naive", "--json", str(file), "--format", "markdown"]
    assert main([*inline, *words]) == 0
    out, err = capsys.readouterr()
    assert "MaPLe, 5 classes, naive, fp32: out of memory" in err
    for record in json.loads(file.read_text())["records"]:
        assert record["training"]["seconds"] and record["evaluation"]["seconds"]
        part = "evaluation" if question == "evaluate" else "training"
        assert record["naive"][part] == {"problem": "out of memory"}
        assert record["ratios"]["evaluation" if question == "evaluate" else "step"] is None
    assert "out of memory" in cells(out, "MaPLe, 5, fp32")


# ---------------------------------------------------------------------- its parts


@pytest.mark.parametrize("trainer", TRAINED)
def test_a_step_takes_little_more_than_the_necessary_operations(trainer):
    """Never less: then something would have been forgotten to be counted."""
    subject = model(trainer, classes=7, batch=2)
    subject.first_step()
    operations = subject.counted("step")
    most = 1.1 if trainer == "TCP" else 1.2
    assert 1 <= operations / sum(subject.necessary().values()) < most


def test_necessary_operations_grow_with_what_needs_them():
    for trainer in TRAINED:
        method = model(trainer).method
        net = method.model
        one, two = necessary_flops(method, 1), necessary_flops(method, 2)
        assert two["frozen"] == 2 * one["frozen"]
        assert two["image"] == 2 * one["image"]
        assert two["similarity"] == 2 * one["similarity"]
        if net.spec.image_conditional:  # but the first block knows what no image changes
            assert 1.9 * one["text"] < two["text"] < 2 * one["text"]
        else:
            assert two["text"] == one["text"]
        assert (one["text"] == 0) == (net.spec.N == 0)
        wider = necessary_flops(model(trainer, classes=10).method, 1)
        assert wider["image"] == one["image"]
        assert one["text"] <= wider["text"] <= 2 * one["text"]
        least = 1.5 if net.spec.token_level else 2  # all classes share the words of the context
        assert wider["similarity"] >= least * one["similarity"]


class Attention(Subject):
    def attend(self):
        q, k = (torch.rand(2, 3, n, 8, requires_grad=True) for n in (5, 7))
        F.scaled_dot_product_attention(q, k, k).sum().backward()


def test_attention_is_counted():
    """Two products forward; backward four, and the scores once more."""
    product = 2 * (2 * 3) * 5 * 7 * 8
    assert Attention("cpu", torch.get_num_threads()).counted("attend") == 7 * product


@pytest.mark.parametrize("trainer", speed.NAIVE)
def test_the_naive_reference_computes_the_same(trainer):
    ours, naive = (model(trainer, classes=14, batch=2, naive=naive) for naive in (False, True))
    logits, same = ours.first_step(), naive.first_step()
    assert naive.counted("step") > 1.3 * ours.counted("step")
    torch.testing.assert_close(torch.tensor(logits), torch.tensor(same), rtol=0, atol=1e-4)


class Hungry(Subject):
    def eat(self):
        torch.ones(1 << 45)


def test_a_process_without_memory():
    with Worker(Hungry, "cpu", 1) as worker:
        worker.answer()
        with pytest.raises(OutOfMemory):
            worker.ask("eat")
    assert not worker.process.is_alive()


def test_a_process_that_the_system_has_ended():
    worker = Worker.__new__(Worker)
    worker.pipe, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(OutOfMemory):
        worker.ask("eat")


def test_a_budget_that_is_too_small():
    small = Case("ALIGN", TINY, 5, 1, "cpu", "fp32", 1, memory_budget=1e-4)
    with Worker(Model, small) as worker, pytest.raises(UserError, match="keeps at least .* GiB"):
        worker.answer()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--backbone ViT-B/61", "There is no backbone 'ViT-B/61': did you mean 'ViT-B/16'?"),
        ("--trainers ALIGN Maple", "There is no trainer 'Maple': did you mean 'MaPLe'?"),
        ("--precision fp32 fp61", "There is no precision 'fp61': did you mean 'fp16'?"),
        ("--precision fp16", "--precision fp16 needs --device cuda"),
        ("--device cuda", "--device cuda needs a GPU"),
        ("--device tpu", "There is no device 'tpu'"),
        ("--classes 10 1", "--classes is 1 but must be at least 2"),
        ("--eval-batch 0", "--eval-batch is 0 but must be at least 1"),
        ("--repeats 0", "--repeats is 0"),
        ("--memory-budget -1", "--memory-budget is -1.0"),
        ("--memory-budget nan", "--memory-budget is nan"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(speed, "Worker", None)  # found before anything is started
    assert main(["speed", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert err.startswith(f"python -m benchmark speed: {sentence}")


@pytest.mark.parametrize("words", ["--classes ten", "--repeats 1.5", "--format pdf", "--speed 3"])
def test_words_that_make_no_sense(words, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["speed", *words.split()])
    assert exit_.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_cannot_be_written(inline, tmp_path, capsys):
    (tmp_path / "file").touch()
    words = ["--trainers", "ZeroshotCLIP", "--json", str(tmp_path / "file" / "speed.json")]
    assert main([*inline, *words]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_the_geometries_are_those_of_clip():
    """Parameters as OpenAI's models have them."""
    for name, count in {"ViT-B/32": 151_277_313, "ViT-B/16": 149_620_737}.items():
        with torch.device("meta"):
            net = case.untrained_clip(GEOMETRY[name])
        assert sum(p.numel() for p in net.parameters()) == count
