"""train.py under torchrun: the files and numbers of one process, and what it says to mistakes."""

import json

import numpy as np
import pytest
import torch
from paths import ROOT
from tiny import OF_HALVES, arguments, run, write_halves
from torchrun import torchrun

from recipe.predictions import KINDS, read_predictions
from trainers.prompting.running import ranks

pytestmark = pytest.mark.processes

# CoOp of which one rank dies where the variable DIES says so: in rank R, after epoch E.
DIES = """
import os, signal
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp

@register
class Dies(CoOp):
    def after_epoch(self, epoch, last):
        if os.environ.get("DIES") == f"{os.environ.get('RANK')} {epoch}":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def train_on(count, *args, extra=(), **variables):
    words = [*arguments(*args), *extra]
    return torchrun(count, str(ROOT / "tests" / "tiny.py"), *words, **variables)


def files(folder) -> set:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if "events" not in p.name}


def numbers(folder) -> dict:
    record = json.loads((folder / "results.json").read_text())
    return {key: record[key] for key in ("accuracy", "macro_f1", "num_test", "seed")} | {
        "ood": record.get("ood")
    }


def assert_same_prompts(one, other, epoch):
    states = [
        torch.load(next(folder.rglob(f"model.pth.tar-{epoch}")), weights_only=True)["state_dict"]
        for folder in (one, other)
    ]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=2e-6)


def test_two_ranks_leave_the_files_and_numbers_of_one(tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    data = write_halves(tmp_path / "data")
    # neither 3 images of a batch, nor the last ones of a test batch, are divisible
    extra = ["DATALOADER.TRAIN_X.BATCH_SIZE", "3", "DATALOADER.TEST.BATCH_SIZE", "4"]
    extra += [*OF_HALVES, "base", "TEST.OOD", "['TinyOthers']"]
    assert run(data, "ALIGN", alone, 2, extra=extra) == 0
    done = train_on(2, data, "ALIGN", shared, 2, extra=extra)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(alone) == files(shared) and numbers(alone) == numbers(shared)
    assert numbers(alone)["ood"]["TinyOthers"]["images"] == 12
    assert_same_prompts(alone, shared, 2)
    assert "This run is shared by 2 ranks" in (shared / "log.txt").read_text()
    assert done.stdout.count("=> result") == 1
    said, same = read_predictions(alone), read_predictions(shared)
    assert said.keys() == same.keys() == KINDS.keys()
    for name in KINDS.keys() - {"image"}:
        np.testing.assert_allclose(same[name], said[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_rank_that_dies_is_told_and_one_process_goes_on(tmp_path):
    (tmp_path / "dies.py").write_text(DIES)
    more = ("--plugin", str(tmp_path / "dies.py"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(tmp_path, "Dies", whole, 3, *more) == 0
    done = train_on(2, tmp_path, "Dies", parts, 3, *more, DIES="1 2")
    assert done.returncode != 0 and not (parts / "results.json").exists()
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Another rank of this run has died" in told and "rerun to resume from" in told
    assert run(tmp_path, "Dies", parts, 3, *more) == 0
    assert numbers(parts) == numbers(whole)
    assert_same_prompts(whole, parts, 3)


@pytest.mark.slow
def test_a_mistake_of_one_rank_is_one_sentence(tmp_path):
    assert run(tmp_path, "ZeroshotCLIP", tmp_path / "out") == 0
    (tmp_path / "tiny_colours" / "test_road_3.png").write_bytes(b"not an image")
    done = train_on(2, tmp_path, "ZeroshotCLIP", tmp_path / "out")
    assert done.returncode != 0
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "test_road_3.png" in told


def test_more_ranks_than_there_is_to_share(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 5)
    assert run(tmp_path, "CoOp") == 2
    told = capsys.readouterr().err
    assert told == "error: There are 5 ranks but 4 classes to share: start at most 4\n"
    monkeypatch.setattr(ranks, "count", lambda: 3)
    assert run(tmp_path, "CoOp", extra=["DATALOADER.TRAIN_X.BATCH_SIZE", "2"]) == 2
    assert "3 ranks but 2 images in a batch to share: start at most 2" in capsys.readouterr().err


def test_ranks_that_see_different_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "of_all", lambda value: [value, "12 images (0123abcd)"])
    assert run(tmp_path, "CoOp") == 2
    told = capsys.readouterr().err
    assert "Rank 1 has as train_x 12 images (0123abcd) but the first rank has 16 images" in told
    assert "give all nodes the same DATASET.ROOT" in told
    assert run(tmp_path, "CoOp", extra=["TEST.OOD", "['TinyOthers']"]) == 2
    told = capsys.readouterr().err
    assert "Rank 1 has as train_x 12 images (0123abcd) but the first rank has 18 images" in told
