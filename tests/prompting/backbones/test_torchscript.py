"""TorchScript archives, like OpenAI's: weights are read, and no code in them is executed."""

import os
import pickle
import zipfile

import pytest
import torch
from cases import slow_but
from released import Call, archive_of, flip, rewritten, same_weights

from trainers.prompting import UserError, load_clip
from trainers.prompting.backbones.weights import read_weights


def as_in_2021(name, content):
    """Return a part of an archive as PyTorch 1.7 wrote it on a GPU."""
    if name.endswith(("byteorder", "serialization_id", "debug_pkl")):
        return None
    if name.endswith("data.pkl"):
        content = content.replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
    return b"3\n" if name.endswith("version") else content


ARCHIVES = {
    "of today": {},
    "of 2021": {"change": as_in_2021},
    "packed again by zip": {"method": zipfile.ZIP_DEFLATED},
}


@pytest.mark.parametrize("half", slow_but([False, True], True))
@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_released_archive_is_read_as_pytorch_reads_it(model, tmp_path, kind, half):
    path = tmp_path / "clip.pt"
    theirs = archive_of(model, path, half)
    rewritten(path, **ARCHIVES[kind])
    ours = read_weights(path)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value) and ours[name].dtype == value.dtype, name
    assert half == (theirs["visual.proj"].dtype == torch.float16)
    loaded = load_clip(str(path))
    assert same_weights(model, loaded) or half
    assert torch.equal(loaded.visual.proj, theirs["visual.proj"].float())


class Scripted(torch.nn.Module):
    """A module with lists, a mapping, tied and empty tensors besides its weights."""

    sizes: list[int]
    words: dict[str, int]

    def __init__(self):
        super().__init__()
        self.sizes, self.words, self.pair, self.nothing = [1, 2], {"a": 3}, (1.5, "b"), None
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
        self.tied = self.inner[0].weight
        self.turned = torch.nn.Parameter(torch.randn(4, 3).T[1:])
        self.register_buffer("empty", torch.empty(0, 3))
        self.register_buffer("kinds", torch.tensor([True, False]))

    def forward(self, x):
        return self.inner(x)


def test_a_scripted_archive_is_read_as_pytorch_reads_it(tmp_path):
    torch.jit.script(Scripted()).save(tmp_path / "x.pt")
    theirs = torch.jit.load(tmp_path / "x.pt").state_dict()
    ours = read_weights(tmp_path / "x.pt")
    assert ours.keys() == theirs.keys() and "inner.1.num_batches_tracked" in ours
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    assert ours["tied"].data_ptr() == ours["inner.0.weight"].data_ptr()


class Writes(torch.nn.Module):
    """A module whose archive writes a file while `torch.jit.load` reads it."""

    path: str

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path, self.training = state
        torch.save([torch.ones(1)], self.path)


def test_no_code_in_an_archive_runs(model, tmp_path):
    written, path = tmp_path / "written", tmp_path / "clip.pt"
    torch.jit.script(Writes(str(written))).save(path)
    torch.jit.load(path)
    assert written.exists(), "else this test would show nothing"
    written.unlink()
    with pytest.raises(UserError, match="holds no CLIP weights"):
        load_clip(str(path))
    assert not written.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_in_an_archive_calls_nothing(model, tmp_path, protocol):
    made, path = tmp_path / "made", tmp_path / "clip.pt"
    archive_of(model, path)
    malice = pickle.dumps(Call(os.mkdir, str(made)), protocol)
    rewritten(path, lambda name, content: malice if name.endswith("/data.pkl") else content)
    with pytest.raises(UserError, match=r"holds objects of \w+.mkdir, which could run code"):
        load_clip(str(path))
    assert not made.exists()


def test_a_flipped_bit_in_an_archive_is_reported(model, tmp_path):
    archive_of(model, tmp_path / "clip.pt")
    flip(tmp_path / "clip.pt")
    with pytest.raises(UserError, match="'clip/data/[0-9]+' in it has changed"):
        load_clip(str(tmp_path / "clip.pt"))
