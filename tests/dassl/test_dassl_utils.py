"""Config, registry, errors, logger, meters, evaluation and small helpers."""

import io
import os
import pickle
import sys

import pytest
import torch
from dassl.config import clean_cfg, get_cfg_default
from dassl.evaluation import build_evaluator
from dassl.metrics import compute_accuracy
from dassl.utils import (
    AverageMeter,
    Logger,
    MetricMeter,
    Registry,
    UserError,
    check_isfile,
    collect_env_info,
    count_num_param,
    listdir_nohidden,
    progress,
    read_json,
    setup_logger,
    tolist_if_not,
    write_json,
)
from paths import ROOT
from sklearn.metrics import confusion_matrix, f1_score
from torch import nn


def test_public_config_files_are_accepted():
    cfg = get_cfg_default()
    cfg.merge_from_file(str(ROOT / "configs" / "trainers" / "CoOp" / "rn50.yaml"))
    assert (cfg.INPUT.SIZE, cfg.OPTIM.WARMUP_CONS_LR, cfg.OPTIM.LR) == ((224, 224), 1e-5, 0.002)
    assert get_cfg_default().OPTIM.LR == 0.0003  # the defaults have not changed
    cfg.TRAINER.COOP, cfg.TRAINER.MAPLE = get_cfg_default().TEST, get_cfg_default().TEST
    clean_cfg(cfg, "CoOp")
    assert set(cfg.TRAINER) == {"NAME", "COOP"}


def test_registry_and_names():
    registry = Registry("ANIMAL")

    @registry.register()
    class Cat:
        pass

    assert registry.get("Cat") is Cat
    assert registry.registered_names() == ["Cat"]
    with pytest.raises(KeyError, match="already registered in ANIMAL"):
        registry.register(Cat)
    registry.register(Cat, force=True)
    with pytest.raises(UserError, match=r"Unknown animal 'cta': did you mean Cat\?") as error:
        registry.get("cta")
    assert error.value.exit_code == 2


def test_user_error_keeps_its_code():
    error = UserError("broken", exit_code=1)
    assert (str(error), error.exit_code) == ("broken", 1)
    assert pickle.loads(pickle.dumps(error)).exit_code == 1


def test_logger_copies_both_streams(tmp_path):
    out, err = io.StringIO(), io.StringIO()
    sys.stdout, sys.stderr = out, err
    setup_logger(None)
    assert sys.stdout is out
    setup_logger(str(tmp_path))
    print("to out")
    print("to err", file=sys.stderr)
    setup_logger(str(tmp_path))  # a second run of the process, into the same folder
    print("again")
    assert (tmp_path / "log.txt").read_text() == "to out\nto err\n"
    (newer,) = tmp_path.glob("log.txt-*")
    assert newer.read_text() == "again\n"
    assert out.getvalue() == "to out\nagain\n"
    assert err.getvalue() == "to err\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")
def test_a_log_on_a_full_disk_fails_once():
    out, err = io.StringIO(), io.StringIO()
    with open("/dev/full", "a", 1) as full:
        streams = Logger(out, full), Logger(err, full)
        with pytest.raises(OSError, match="No space"):
            print("to out", file=streams[0])
        print("what is wrong", file=streams[1])
        for stream in streams:
            stream.flush()
    assert (out.getvalue(), err.getvalue()) == ("to out\n", "what is wrong\n")


def test_progress_leaves_no_carriage_returns_in_the_log(tmp_path, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    assert list(progress([1, 2, 3], seconds=-1)) == [1, 2, 3]
    assert capsys.readouterr().out == "batch [1/3]\nbatch [2/3]\nbatch [3/3]\n"
    terminal = Terminal()
    sys.stdout, sys.stderr = io.StringIO(), terminal
    setup_logger(str(tmp_path))
    assert list(progress([1, 2, 3])) == [1, 2, 3]
    assert "/3 [" in terminal.getvalue()
    assert (tmp_path / "log.txt").read_text() == ""


def test_meters():
    meter = AverageMeter()
    assert meter.avg == 0
    meter.update(1.0)
    meter.update(torch.tensor(4.0), n=2)
    assert (meter.val, meter.avg, meter.sum, meter.count) == (4, 3, 9, 3)
    metrics = MetricMeter()
    metrics.update(None)
    metrics.update({"loss": torch.tensor(0.5, requires_grad=True), "acc": 25.0})
    metrics.update({"loss": torch.tensor(1.5), "acc": 75.0})
    assert str(metrics) == "loss 1.5000 (1.0000) acc 75.0000 (50.0000)"


def test_accuracy():
    output = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.15, 0.05], [0.2, 0.3, 0.5]])
    top1, top2 = compute_accuracy((output, None), torch.tensor([1, 1, 0]), topk=(1, 2))
    assert top1.shape == (1,)
    assert top1.item() == pytest.approx(100 / 3)
    assert top2.item() == pytest.approx(200 / 3)


def test_evaluator(tmp_path, capsys):
    cfg = get_cfg_default()
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path / "new")])
    cfg.merge_from_list(["TEST.PER_CLASS_RESULT", True, "TEST.COMPUTE_CMAT", True])
    evaluator = build_evaluator(cfg, lab2cname={0: "cat", 1: "dog", 2: "cow"})
    evaluator.process(torch.eye(3)[[0, 0, 1]], torch.tensor([0, 1, 1]))
    evaluator.process(torch.eye(3)[[1]], torch.tensor([0]))
    evaluator.process(torch.eye(3)[[0]], torch.tensor([0]))
    capsys.readouterr()
    results = evaluator.evaluate()
    assert list(results) == ["accuracy", "error_rate", "macro_f1", "perclass_accuracy"]
    assert results["accuracy"] == pytest.approx(60)
    assert results["error_rate"] == pytest.approx(40)
    assert results["macro_f1"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    assert results["perclass_accuracy"] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
    out = capsys.readouterr().out
    assert out.startswith(
        "=> result\n* total: 5\n* correct: 3\n"
        "* accuracy: 60.0%\n* error: 40.0%\n* macro_f1: 58.3%\n"
        "=> per-class result\n* class: 0 (cat)\ttotal: 3\tcorrect: 2\tacc: 66.7%\n"
    )
    matrix = torch.load(tmp_path / "new" / "cmat.pt", weights_only=True)
    assert torch.allclose(matrix, torch.tensor([[2 / 3, 1 / 3], [1 / 2, 1 / 2]]).double())


def test_metrics_are_those_of_scikit_learn(tmp_path):
    """Some classes have no test image, or are never predicted."""
    labels, predicted = torch.randint(8, (2, 40))
    labels[labels == 3], predicted[predicted == 5] = 4, 6
    cfg = get_cfg_default()
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "TEST.COMPUTE_CMAT", True])
    evaluator = build_evaluator(cfg)
    evaluator.process(torch.eye(8)[predicted], labels)
    known = labels.unique()
    expected = f1_score(labels, predicted, average="macro", labels=known)
    assert evaluator.evaluate()["macro_f1"] == pytest.approx(100 * expected, rel=1e-12)
    expected = confusion_matrix(labels, predicted, normalize="true")
    found = torch.load(tmp_path / "cmat.pt", weights_only=True)
    torch.testing.assert_close(found, torch.from_numpy(expected))


def test_numbers_of_parameters():
    body, head = nn.Linear(2, 3), nn.Linear(3, 1)
    assert count_num_param(nn.Sequential(body, head)) == 13
    assert count_num_param(params=[{"params": head.parameters()}]) == 4
    assert count_num_param(params=body.parameters()) == 9


def test_files(tmp_path, capsys):
    write_json({"a": [1]}, str(tmp_path / "sub" / "b.json"))
    assert read_json(str(tmp_path / "sub" / "b.json")) == {"a": [1]}
    (tmp_path / ".hidden").touch()
    (tmp_path / "a").touch()
    assert listdir_nohidden(str(tmp_path), sort=True) == ["a", "sub"]
    assert check_isfile(str(tmp_path / "a"))
    assert not check_isfile(str(tmp_path / "c"))
    assert "No file found at" in capsys.readouterr().out
    assert tolist_if_not("a") == ["a"]
    assert tolist_if_not(["a"]) == ["a"]
    assert f"PyTorch: {torch.__version__}" in collect_env_info()
