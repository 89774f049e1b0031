"""Broken and foreign files of a CLIP whose image side is closed end in one sentence."""

import json

import pytest
import torch
from foreign import TEXT, open_clip_folder
from paths import GOLDEN
from safetensors.torch import load_file, save_file

from trainers.prompting import UserError, load_clip

pytest.importorskip("open_clip", reason="open_clip_torch is not installed")

VISION = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
          "timm_proj": "linear", "image_size": 32}  # fmt: skip
STEM = "visual.trunk.stem.0.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True}
    return open_clip_folder(tmp_path_factory.mktemp("closed"), config, {"resize_mode": "squash"})[0]


@pytest.fixture
def files(folder):
    """Return the files of weights and of the config, which are restored afterwards."""
    paths = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    before = [path.read_bytes() for path in paths]
    yield paths
    for path, content in zip(paths, before, strict=True):
        path.write_bytes(content)


WEIGHTS = {
    "one is missing": ({STEM: None}, f"has no {STEM}"),
    "another shape": ({STEM: torch.zeros(3, 3)}, rf"has {STEM} of shape \(3, 3\) instead of"),
    "not a number": ({STEM: torch.full((24, 3, 4, 4), torch.nan)}, f"'{STEM}' in it .* not finite"),
}
CONFIGS = {
    "no such model": ({"timm_model_name": "no_such"}, r"cannot be built \(.*no_such"),
    "a key that nobody knows": ({"foo": 3}, r"cannot be built \(.*'foo'"),
    "no size": ({"image_size": "x"}, "images of .* are x, not square"),
    "another projection": ({"timm_proj": "zzz"}, "cannot be built"),
}


def refused(folder, said):
    with pytest.raises(UserError, match=said) as error:
        load_clip(f"open_clip:{folder}")
    assert "\n" not in str(error.value)


def test_positions_of_older_versions_of_transformers_are_left_out(folder, files):
    before = load_clip(f"open_clip:{folder}").state_dict()
    old = {"text.transformer.embeddings.position_ids": torch.arange(24)[None]}
    save_file(load_file(files[0]) | old, files[0])
    after = load_clip(f"open_clip:{folder}").state_dict()
    assert before.keys() == after.keys()


@pytest.mark.parametrize("case", WEIGHTS)
def test_wrong_weights(folder, files, case):
    changed, said = WEIGHTS[case]
    state = load_file(files[0]) | changed
    save_file({name: value for name, value in state.items() if value is not None}, files[0])
    refused(folder, said)


def test_a_truncated_file_and_one_of_another_architecture(folder, files):
    files[0].write_bytes(files[0].read_bytes()[:1000])
    refused(folder, "holds no CLIP weights that can be read")
    files[0].write_bytes((GOLDEN / "tiny_clip_seed0.safetensors").read_bytes())
    refused(folder, "check that the weights belong to this architecture")


@pytest.mark.parametrize("case", CONFIGS)
def test_wrong_configs(folder, files, case):
    changed, said = CONFIGS[case]
    config = json.loads(files[1].read_text())
    config["model_cfg"]["vision_cfg"] |= changed
    files[1].write_text(json.dumps(config))
    refused(folder, said)


def test_sizes_that_take_any_memory_are_compared_first(folder, files):
    """A table of 128 GB is never allocated, and no random number is drawn."""
    config = json.loads(files[1].read_text())
    config["model_cfg"]["text_cfg"]["vocab_size"] = 10**9
    files[1].write_text(json.dumps(config))
    state = torch.get_rng_state()
    refused(folder, r"of shape \(49408, 32\) instead of \(1000000000, 32\)")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("part", ["vision_cfg", "text_cfg", "embed_dim"])
def test_a_config_that_lacks_a_part(folder, files, part):
    config = json.loads(files[1].read_text())
    del config["model_cfg"][part]
    files[1].write_text(json.dumps(config))
    refused(folder, "is not the config of an open_clip model")
