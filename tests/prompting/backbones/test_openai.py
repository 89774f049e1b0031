"""Weights of OpenAI's CLIP: what is read, what is refused, and what never runs."""

import copy
import json
import os
import urllib.error

import pytest
import torch
from safetensors.torch import save_file

from trainers.prompting import UserError, build_clip, load_clip
from trainers.prompting.backbones import absolute, family_of, openai

ARCH = {
    "embed_dim": 32, "image_resolution": 32, "vision_layers": 2, "vision_width": 64,
    "vision_patch_size": 16, "context_length": 16, "vocab_size": 60, "transformer_width": 64,
    "transformer_heads": 1, "transformer_layers": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_clip(ARCH)


def released(model) -> dict:
    """A state dict with the entries of OpenAI's release."""
    marks = {"input_resolution": 32, "context_length": 16, "vocab_size": 60}
    return {**model.state_dict(), **{name: torch.tensor(n) for name, n in marks.items()}}


def same_weights(one, other) -> bool:
    other = other.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


def test_a_released_state_dict_is_read_without_rounding(model, tmp_path):
    torch.save(released(model), tmp_path / "clip.pt")
    loaded = load_clip(str(tmp_path / "clip.pt"))
    assert same_weights(model, loaded) and not loaded.training
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_released_archive_is_read(model, tmp_path):
    archive = copy.deepcopy(model)
    for name in openai.MARKS:
        archive.__dict__.pop(name, None)
        archive.register_buffer(name, torch.tensor(1))
    words = torch.randint(60, (1, 16))
    torch.jit.trace(archive, (torch.randn(1, 3, 32, 32), words)).save(tmp_path / "clip.pt")
    assert same_weights(model, load_clip(str(tmp_path / "clip.pt")))


def others(model) -> dict:
    """State dicts that are not known to be OpenAI's, with a part of the refusal."""
    state = model.state_dict()
    return {
        "the same names, as open_clip's GELU models have them": (state, "lacks context_length"),
        "a checkpoint of a training": (
            {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
            "under the names of OpenAI's class",
        ),
        "SigLIP's bias": (released(model) | {"logit_bias": torch.zeros(())}, "logit_bias"),
        "a missing block": (
            {k: v for k, v in released(model).items() if "visual.transformer.resblocks.0" not in k},
            "Missing key",
        ),
        "a list": ([1, 2], "under the names of OpenAI's class"),
    }


@pytest.mark.parametrize("case", range(5))
def test_what_is_not_known_to_fit_is_refused(model, tmp_path, case):
    state, part = list(others(model).values())[case]
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(UserError) as error:
        load_clip(str(tmp_path / "other.pt"))
    assert part in str(error.value) and "other.pt" in str(error.value)


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
    assert asked == [{"map_location": "cpu", "weights_only": True}]  # whatever the default is


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_file_that_is_no_checkpoint(tmp_path, suffix, content):
    path = tmp_path / f"broken.{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="holds no CLIP weights that can be read") as error:
        load_clip(str(path))
    assert "\n" not in str(error.value)


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


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'ViT-B/16'"):
        load_clip("ViT-B16")


@pytest.mark.parametrize(
    "failure",
    [urllib.error.URLError("no route"), RuntimeError("the SHA256 checksum does not match")],
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
    tokenizer = family_of(object()).tokenizer
    ids = [tokenizer.sos, *tokenizer.encode("a photo of a café."), tokenizer.eos]
    assert ids == openai.clip.tokenize("a photo of a café.")[0][: len(ids)].tolist()
    assert tokenizer.decode(ids[1:-1]).strip() == "a photo of a café ."


def test_a_folder_of_the_same_name_does_not_hide_the_embedded_clip(tmp_path, monkeypatch):
    (tmp_path / "emoji").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("emoji") == "emoji"
    assert load_clip("emoji").visual.input_resolution == 64
