"""train.py under torchrun: the files and numbers of one process, and messages about mistakes."""

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

# A CoOp; the rank R is killed after epoch E if the variable DIES is "R E".
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


def test_two_ranks_write_the_files_and_numbers_of_one(tmp_path):
    single, shared = tmp_path / "single", tmp_path / "shared"
    data = write_halves(tmp_path / "data")
    # two ranks divide neither 3 images of a batch nor the last test batch evenly
    extra = ["DATALOADER.TRAIN_X.BATCH_SIZE", "3", "DATALOADER.TEST.BATCH_SIZE", "4"]
    extra += [*OF_HALVES, "base", "TEST.OOD", "['TinyOthers']"]
    assert run(data, "ALIGN", single, 2, extra=extra) == 0
    done = train_on(2, data, "ALIGN", shared, 2, extra=extra)
    assert done.returncode == 0, done.stderr[-3000:]
    assert files(single) == files(shared) and numbers(single) == numbers(shared)
    assert numbers(single)["ood"]["TinyOthers"]["images"] == 12
    assert_same_prompts(single, shared, 2)
    assert "This run is shared by 2 ranks" in (shared / "log.txt").read_text()
    assert done.stdout.count("=> result") == 1
    said, same = read_predictions(single), read_predictions(shared)
    assert said.keys() == same.keys() == KINDS.keys()
    for name in KINDS.keys() - {"image"}:
        np.testing.assert_allclose(same[name], said[name], rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_rank_that_dies_is_reported_and_one_process_resumes(tmp_path):
    (tmp_path / "dies.py").write_text(DIES)
    more = ("--plugin", str(tmp_path / "dies.py"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(tmp_path, "Dies", whole, 3, *more) == 0
    done = train_on(2, tmp_path, "Dies", parts, 3, *more, DIES="1 2")
    assert done.returncode != 0 and not (parts / "results.json").exists()
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Another rank of this run has died" in error and "rerun to resume from" in error
    assert run(tmp_path, "Dies", parts, 3, *more) == 0
    assert numbers(parts) == numbers(whole)
    assert_same_prompts(whole, parts, 3)


@pytest.mark.slow
def test_a_mistake_of_one_rank_is_one_sentence(tmp_path):
    assert run(tmp_path, "ZeroshotCLIP", tmp_path / "out") == 0
    (tmp_path / "tiny_colours" / "test_road_3.png").write_bytes(b"not an image")
    done = train_on(2, tmp_path, "ZeroshotCLIP", tmp_path / "out")
    assert done.returncode != 0
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "test_road_3.png" in error


def test_more_ranks_than_classes_or_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 5)
    assert run(tmp_path, "CoOp") == 2
    error = capsys.readouterr().err
    assert error == "error: There are 5 ranks but 4 classes to share: start at most 4\n"
    monkeypatch.setattr(ranks, "count", lambda: 3)
    assert run(tmp_path, "CoOp", extra=["DATALOADER.TRAIN_X.BATCH_SIZE", "2"]) == 2
    assert "3 ranks but 2 images in a batch to share: start at most 2" in capsys.readouterr().err


def test_ranks_that_see_different_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "of_all", lambda value: [value, "12 images (0123abcd)"])
    assert run(tmp_path, "CoOp") == 2
    error = capsys.readouterr().err
    assert "Rank 1 has in train_x 12 images (0123abcd) but the first rank has 16 images" in error
    assert "give all nodes the same DATASET.ROOT" in error
    assert run(tmp_path, "CoOp", extra=["TEST.OOD", "['TinyOthers']"]) == 2
    error = capsys.readouterr().err
    assert "Rank 1 has in train_x 12 images (0123abcd) but the first rank has 18 images" in error
