"""Checkpoints: atomic writes, no foreign code in them, and remedies for broken ones."""

import collections
import os
import zipfile

import numpy as np
import pytest
import torch
from dassl.optim.lr_scheduler import ConstantWarmupScheduler
from dassl.utils import (
    UserError,
    checkpoints,
    get_rng_state,
    load_checkpoint,
    load_pretrained_weights,
    resume_from_checkpoint,
    save_checkpoint,
    set_random_seed,
    set_rng_state,
)
from torch import nn


def test_checkpoint_files(tmp_path, monkeypatch):
    model = nn.Linear(2, 1)
    state = {"state_dict": nn.DataParallel(model).state_dict(), "epoch": 3}
    save_checkpoint(state, str(tmp_path), is_best=True)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint", "model-best.pth.tar", "model.pth.tar-3"]
    loaded = load_checkpoint(str(tmp_path / "model-best.pth.tar"))
    assert set(loaded["state_dict"]) == {"weight", "bias"}
    other = nn.Linear(2, 1)
    assert resume_from_checkpoint(str(tmp_path), nn.DataParallel(other)) == 3
    assert torch.equal(other.weight, model.weight)

    def full_disk(path, mode):
        with open(path, mode) as file:
            file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoints, "open", full_disk, raising=False)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(state, str(tmp_path))
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert load_checkpoint(str(tmp_path / "model.pth.tar-3"))["epoch"] == 3


class Malicious:
    def __reduce__(self):
        return os.system, ("echo owned > owned.txt",)


def test_checkpoints_that_cannot_be_read_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, "foreign.pt")
    with pytest.raises(UserError, match="'foreign.pt' is not read.*system") as error:
        load_checkpoint("foreign.pt")
    assert "\n" not in str(error.value)
    assert not os.path.exists("owned.txt")
    for content in (b"", b"text", b"PK\x03\x04 cut off"):
        with open("broken.pt", "wb") as file:
            file.write(content)
        with pytest.raises(UserError, match="'broken.pt' is broken") as error:
            load_checkpoint("broken.pt")
        assert "weights_only" not in str(error.value)
    with pytest.raises(UserError, match="There is no checkpoint 'none.pt'"):
        load_checkpoint("none.pt")


def flip(path, entry):
    """Flip one bit in the middle of an entry of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        (info,) = (i for i in archive.infolist() if i.filename.endswith(entry))
        with archive.open(info) as file:
            content = file.read()
    whole = bytearray(path.read_bytes())
    place = whole.find(content, info.header_offset)
    whole[place + len(content) // 2] ^= 64
    path.write_bytes(whole)


@pytest.mark.parametrize("entry", ["data.pkl", "data/0", "data/1"])
def test_a_flipped_bit_is_reported(tmp_path, whole, entry):
    save_checkpoint(whole, str(tmp_path))
    path = tmp_path / "model.pth.tar-1"
    flip(path, entry)
    for read in (
        lambda: load_checkpoint(str(path)),
        lambda: resume_from_checkpoint(str(tmp_path), *trained()),
        lambda: load_pretrained_weights(nn.Linear(2, 1), str(path)),
    ):
        with pytest.raises(UserError, match=f"{entry}' has changed since it was written") as error:
            read()
        assert f"The checkpoint '{path}' is broken" in str(error.value)


def test_a_file_of_an_old_pytorch_has_no_checksums(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load_checkpoint(str(tmp_path / "old.pt")) == {"epoch": 3}


@pytest.mark.parametrize("content", [[1], 7, torch.zeros(2)])
def test_content_that_is_not_a_checkpoint_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(UserError, match="is broken .it holds a (list|int|Tensor).: copy it again"):
        load_checkpoint(str(tmp_path / "other.pt"))


def test_remedies_for_a_last_checkpoint_that_is_missing_or_broken(tmp_path):
    model, mark = nn.Linear(1, 1), tmp_path / "checkpoint"
    for epoch in (1, 2):
        save_checkpoint({"state_dict": model.state_dict(), "epoch": epoch}, str(tmp_path))
    last = tmp_path / "model.pth.tar-2"
    last.write_bytes(b"half")
    with pytest.raises(UserError, match="model.pth.tar-2' is broken .*or write 'model.pth.tar-1'"):
        resume_from_checkpoint(str(tmp_path), model)
    last.unlink()
    with pytest.raises(UserError, match="no checkpoint '.*model.pth.tar-2'"):
        resume_from_checkpoint(str(tmp_path), model)
    mark.write_text("model.pth.tar-1\n")
    assert resume_from_checkpoint(str(tmp_path), model) == 1


def trained():
    """Return a model after a step, its optimiser, and a scheduler with a warm-up."""
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    after = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    scheduler = ConstantWarmupScheduler(optimizer, after, 1, 0.01)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    return model, optimizer, scheduler


@pytest.fixture(scope="module")
def whole():
    """A valid checkpoint."""
    model, optimizer, scheduler = trained()
    return {
        "state_dict": model.state_dict(),
        "epoch": 1,
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }


def test_a_checkpoint_restores_optimiser_and_scheduler(tmp_path, whole):
    save_checkpoint(whole, str(tmp_path))
    parts = trained()
    parts[1].param_groups[0]["lr"] = 7.0
    parts[1].state[parts[0].weight]["momentum_buffer"].zero_()
    assert resume_from_checkpoint(str(tmp_path), *parts) == 1
    assert str(parts[1].state_dict()) == str(whole["optimizer"])
    assert parts[2].state_dict() == whole["scheduler"]


def test_numpy_numbers_and_optimisers_in_checkpoints(tmp_path):
    optimizer = torch.optim.AdamW(nn.Linear(1, 1).parameters())
    state = {
        "val_result": np.float64(2.5),
        "half": np.float32(0.5),
        "milestones": collections.Counter([1]),
        "object": optimizer,
    }
    torch.save(state, tmp_path / "a.pt")
    with torch.serialization.safe_globals([np.dtype]):  # by other code
        allowed = set(torch.serialization.get_safe_globals())
        loaded = load_checkpoint(str(tmp_path / "a.pt"))
        assert set(torch.serialization.get_safe_globals()) == allowed
    assert (loaded["val_result"], loaded["half"]) == (2.5, 0.5)
    assert loaded["milestones"] == {1: 1}
    assert type(loaded["object"]) is not torch.optim.AdamW


def test_pretrained_weights(tmp_path, capsys):
    model = nn.Linear(2, 3)
    states = {"module.weight": torch.ones(3, 2), "bias": torch.zeros(4), "other": torch.zeros(1)}
    torch.save({"state_dict": states}, tmp_path / "a.pt")
    load_pretrained_weights(model, str(tmp_path / "a.pt"))
    assert torch.equal(model.weight, torch.ones(3, 2))
    assert "do not fit: bias, other" in capsys.readouterr().out
    torch.save({"strange": torch.zeros(1)}, tmp_path / "b.pt")
    with pytest.warns(UserWarning, match="No weight"):
        load_pretrained_weights(model, str(tmp_path / "b.pt"))


def test_generator_states_survive_a_checkpoint(tmp_path):
    set_random_seed(3)
    torch.save(get_rng_state(), tmp_path / "rng.pt")
    first = np.random.rand(), np.random.randn(), torch.rand(1).item()
    set_rng_state(load_checkpoint(str(tmp_path / "rng.pt")))
    assert (np.random.rand(), np.random.randn(), torch.rand(1).item()) == first
