"""Weights of OpenAI's CLIP: files and archives that are read or refused; no code is executed.

It is long because downloads, archives and safetensors can each be wrong in many ways.
"""

import hashlib
import http.client
import json
import os
import pickle
import shutil
import urllib.error
import zipfile

import pytest
import torch
from cases import slow_but
from released import (
    ARCH,
    MARKS,
    Call,
    archive_of,
    cut,
    flip,
    released,
    rewritten,
    same_weights,
    with_,
)
from safetensors.torch import save_file

from trainers.prompting import UserError, load_clip
from trainers.prompting.backbones import absolute, openai, weights_sha256
from trainers.prompting.backbones.weights import read_weights


def test_a_released_state_dict_is_read_without_rounding(model, tmp_path):
    torch.save(released(model), tmp_path / "clip.pt")
    loaded = load_clip(str(tmp_path / "clip.pt"))
    assert same_weights(model, loaded) and not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


OTHERS = {  # what makes weights that are not known to be OpenAI's of the release, and what is said
    "the same names, as open_clip's GELU models have them": (
        lambda state: {k: v for k, v in state.items() if k not in MARKS}, "lacks context_length",
    ),
    "a checkpoint of a training": (
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        "lacks context_length",
    ),
    "SigLIP's bias": (lambda state: state | {"logit_bias": torch.zeros(())}, "logit_bias"),
    "a missing block": (
        lambda state: {k: v for k, v in state.items() if "visual.transformer.resblocks.0" not in k},
        "Missing key",
    ),
    "a list": (list, "it is not a state dict, which has tensors"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_weights_that_may_not_fit_are_refused(model, tmp_path, case):
    change, part = OTHERS[case]
    torch.save(change(released(model)), tmp_path / "other.pt")
    with pytest.raises(UserError, match="other.pt.*" + part):
        load_clip(str(tmp_path / "other.pt"))


def test_no_code_in_a_checkpoint_runs(tmp_path, monkeypatch):
    class Malice:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    load, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *a, **k: asked.append(k) or load(*a, **k))
    torch.save({"text_projection": Malice()}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="bad.pt' holds no CLIP weights") as error:
        load_clip(str(tmp_path / "bad.pt"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    assert asked == [{"map_location": "cpu", "weights_only": True}]  # not left to the default


BROKEN = {
    "cut": (cut, "Error"),
    "empty": (lambda path: path.write_bytes(b""), "EOFError"),
    "words": (lambda path: path.write_bytes(b"no weights at all"), "it is damaged"),
    "bits": (flip, "in it has changed since it was written"),
    "an object": (lambda path: with_(path, more=Call(os.getcwd)), "objects of posix.getcwd, which"),
    "a word": (lambda path: with_(path, more="x"), "it is not a state dict, which has tensors"),
    "narrow": (
        lambda path: with_(path, **{"ln_final.weight": torch.ones(32)}), "num_heads"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence(model, tmp_path, case):
    path = tmp_path / "clip.pt"
    torch.save(released(model), path)
    change, part = BROKEN[case]
    change(path)
    with pytest.raises(UserError, match="clip.pt' holds no CLIP weights that can be read") as error:
        load_clip(str(path))
    assert part in str(error.value) and "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)


def test_safetensors_say_what_they_are(model, tmp_path):
    path, state = tmp_path / "clip.safetensors", model.state_dict()
    save_file(state, path, {"arch": json.dumps(ARCH)})
    assert same_weights(model, load_clip(str(path)))
    save_file(state, path)
    with pytest.raises(UserError, match="metadata lack `arch`"):
        load_clip(str(path))
    save_file(state, path, {"arch": json.dumps({**ARCH, "depth": 3})})
    with pytest.raises(UserError, match="unexpected keyword argument 'depth'"):
        load_clip(str(path))
    save_file(state, path, {"arch": json.dumps({**ARCH, "vision_layers": 3})})
    with pytest.raises(UserError, match="holds no CLIP weights"):
        load_clip(str(path))


NO_ARCH = {
    "list": ([1], "is a list, not an object"),
    "heads": ({"transformer_heads": 0}, "holds no CLIP weights that can be read"),
    **{
        f"no {key}": ({key: ...}, f"required positional argument: '{key}'")
        for key in ("transformer_width", "transformer_layers", "image_resolution")
    },
}


@pytest.mark.parametrize("case", NO_ARCH)
def test_an_impossible_architecture_is_refused(model, tmp_path, case):
    arch, part = NO_ARCH[case]
    if isinstance(arch, dict):  # `...` marks a key that is left out
        arch = {key: value for key, value in {**ARCH, **arch}.items() if value is not ...}
    path, text = tmp_path / "clip.safetensors", arch if isinstance(arch, str) else json.dumps(arch)
    save_file(model.state_dict(), path, {"arch": text})
    with pytest.raises(UserError) as error:
        load_clip(str(path))
    assert part in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'ViT-B/16'"):
        load_clip("ViT-B16")


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no route"),
        RuntimeError("the SHA256 checksum does not match"),
        TypeError("int() argument must be a string"),  # a proxy's response without a length
        http.client.IncompleteRead(b""),
    ],
)
def test_a_download_that_fails_says_where_the_file_goes(monkeypatch, failure):
    def fail(url, root):
        raise failure

    monkeypatch.setattr(openai.clip, "_download", fail)
    with pytest.raises(UserError, match=r"RN50 could not.*put the file at '.*clip/RN50.pt'"):
        load_clip("RN50")


def test_a_name_is_downloaded_by_the_package(model, tmp_path, monkeypatch):
    torch.save(released(model), tmp_path / "RN50.pt")
    monkeypatch.setattr(
        openai.clip, "_download", lambda url, root: str(tmp_path / url.rpartition("/")[2])
    )
    assert same_weights(model, load_clip("RN50"))


def test_the_tokenizer_is_clips():
    tokenizer = openai.OPENAI.tokenizer
    ids = [tokenizer.sos, *tokenizer.encode("a photo of a café."), tokenizer.eos]
    assert ids == openai.clip.tokenize("a photo of a café.")[0][: len(ids)].tolist()
    assert tokenizer.decode(ids[1:-1]).strip() == "a photo of a café ."


def test_a_folder_of_the_same_name_does_not_hide_the_embedded_clip(tmp_path, monkeypatch):
    (tmp_path / "emoji").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("emoji") == "emoji"
    assert load_clip("emoji").visual.input_resolution == 64


@pytest.mark.parametrize("prefix", ["", "open_clip:ViT-B-32/"])
def test_the_hash_of_a_backbone_is_that_of_its_file(tmp_path, prefix):
    if prefix:
        pytest.importorskip("open_clip")
    path = tmp_path / "clip.pt"
    for content in (b"weights", b"other weights"):
        path.write_bytes(content)
        os.utime(path, ns=(len(content), len(content)))  # the clock may be too coarse
        assert weights_sha256(f"{prefix}{path}") == hashlib.sha256(content).hexdigest()
    embedded = openai.EMBEDDED["emoji"].read_bytes()
    assert weights_sha256("emoji") == hashlib.sha256(embedded).hexdigest()
    assert f"/{weights_sha256('ViT-B/16')}/" in openai.clip._MODELS["ViT-B/16"]
    for name in ("", "resnet50", "openai/clip-vit-base-patch16", "open_clip:ViT-B-32/laion2b"):
        assert weights_sha256(name) is None


# ------------------------------------------------------------------ TorchScript


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


@pytest.fixture(scope="module")
def archives(model, tmp_path_factory):
    """Archives like OpenAI's, with what PyTorch reads: in float32, and in float16."""
    paths = [tmp_path_factory.mktemp("archive") / "clip.pt" for _ in range(2)]
    return [(path, archive_of(model, path, half)) for half, path in enumerate(paths)]


@pytest.mark.parametrize("half", slow_but([False, True], True))
@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_released_archive_is_read_as_pytorch_reads_it(model, archives, tmp_path, kind, half):
    source, theirs = archives[half]
    path = shutil.copy(source, tmp_path)
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
def test_a_pickle_in_an_archive_calls_nothing(archives, tmp_path, protocol):
    made, path = tmp_path / "made", shutil.copy(archives[0][0], tmp_path)
    malice = pickle.dumps(Call(os.mkdir, str(made)), protocol)
    rewritten(path, lambda name, content: malice if name.endswith("/data.pkl") else content)
    with pytest.raises(UserError, match=r"holds objects of \w+.mkdir, which could run code"):
        load_clip(str(path))
    assert not made.exists()


def test_a_flipped_bit_in_an_archive_is_reported(archives, tmp_path):
    path = tmp_path / "clip.pt"
    shutil.copy(archives[0][0], path)
    flip(path)
    with pytest.raises(UserError, match="'clip/data/[0-9]+' in it has changed"):
        load_clip(str(path))
