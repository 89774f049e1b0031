"""Broken folders of open_clip and Hugging Face: one sentence each, and no code is executed."""

import json
import shutil

import pytest
import torch
from foreign import TEXT, images, open_clip_folder, zero_shot
from safetensors.torch import load_file, save_file

from trainers.prompting import UserError, load_clip

pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")


def edit(file: str, *keys, **values):
    """Return a function that sets values of the object at the given keys of a JSON file."""

    def change(folder):
        content = json.loads((folder / file).read_text())
        inner = content
        for key in keys:
            inner = inner[key]
        inner.update(values)
        (folder / file).write_text(json.dumps(content))

    return change


def write(file: str, content):
    """Return a function that replaces the content of a file."""
    content = content if isinstance(content, str) else json.dumps(content)
    return lambda folder: (folder / file).write_text(content)


def cut(file: str):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:1000])


def pickled(change=lambda state: state):
    """Return a function that moves the weights into a file of torch.save, changed by `change`."""

    def write(folder):
        (source,) = folder.glob("*.safetensors")
        torch.save(change(load_file(source)), folder / "pytorch_model.bin")
        source.unlink()

    return write


def without(*parts):
    return pickled(lambda state: {k: v for k, v in state.items() if not any(p in k for p in parts)})


def weights(file: str, **changes):
    """Return a function that changes weights of a file, or takes those that are None away."""

    def change(folder):
        state = load_file(folder / file)
        state |= {name: value and value(state.get(name)) for name, value in changes.items()}
        save_file({k: v for k, v in state.items() if v is not None}, folder / file)

    return change


CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
VISION_CFG, TEXT_CFG = ("model_cfg", "vision_cfg"), ("model_cfg", "text_cfg")
STEM = "visual.trunk.stem.0.weight"
BROKEN = {  # a kind of folder, a change, and what is said
    "weights": ("Hugging Face", cut("model.safetensors"), "model.safetensors' holds no CLIP w"),
    "pickle": (
        "Hugging Face", lambda folder: [pickled()(folder), cut("pytorch_model.bin")(folder)],
        "pytorch_model.bin' holds no CLIP w",
    ),
    "object": (
        "Hugging Face", pickled(lambda state: {**state, "x": print}), "holds objects of print, w",
    ),
    "no weights": (
        "Hugging Face", lambda folder: (folder / "model.safetensors").unlink(), "has no weights",
    ),
    "no projection": ("Hugging Face", without("text_projection"), "has no text_projection"),
    "no config": (
        "Hugging Face", lambda folder: (folder / "config.json").unlink(), "config.json' cannot be",
    ),
    "list": ("Hugging Face", write("config.json", []), "config.json' is a list, not an object"),
    "more layers": (
        "Hugging Face", edit("config.json", "vision_config", num_hidden_layers=3),
        "has no visual.transformer.resblocks.2",
    ),
    "text width": (
        "Hugging Face", edit("config.json", "text_config", hidden_size=64),
        "of shape (24, 32) instead of (24, 64)",
    ),
    "end": (
        "Hugging Face", edit("config.json", "text_config", eos_token_id=7), "a sentence with to",
    ),
    "vocabulary": ("Hugging Face", cut("vocab.json"), "cannot be read"),
    "tokenizer": ("Hugging Face", write("tokenizer.json", '{"version": "1.0"'), "cannot be read"),
    "its weights": ("open_clip", cut(WEIGHTS), "holds no CLIP weights"),
    "no file": ("open_clip", lambda folder: (folder / WEIGHTS).unlink(), "has no weights: put"),
    "resizing": (
        "open_clip", edit(CONFIG, preprocess_cfg={"resize_mode": "longest"}), "'longest', which i",
    ),
    "its tokenizer": (
        "open_clip", edit(CONFIG, *TEXT_CFG, tokenizer_kwargs={"x": 1}), "tokenizer_kwargs in its",
    ),
    "one is missing": ("closed", weights(WEIGHTS, **{STEM: None}), f"has no {STEM}"),
    "another shape": (
        "closed", weights(WEIGHTS, **{STEM: lambda x: x[0]}), f"has {STEM} of shape (3, 4, 4) ins",
    ),
    "no such model": (
        "closed", edit(CONFIG, *VISION_CFG, timm_model_name="no_such"), "cannot be built (",
    ),
}  # fmt: skip
VISION = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
          "timm_proj": "linear", "image_size": 32}  # fmt: skip


def refused(name, part) -> None:
    """Check that a load says a part in one line."""
    with pytest.raises(UserError) as error:
        load_clip(name)
    said = str(error.value)
    assert part in said and "\n" not in said and "weights_only" not in said


@pytest.fixture(scope="module")
def places(backbones, tmp_path_factory):
    """The folders of a backbone of each library, and of one of open_clip with a closed side."""
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True}
    closed = tmp_path_factory.mktemp("closed")
    open_clip_folder(closed, config, {"resize_mode": "squash"})
    places = {library: name.removeprefix("open_clip:") for library, name in backbones.items()}
    return places | {"closed": closed}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_sentence(places, tmp_path, case):
    kind, change, part = BROKEN[case]
    folder = shutil.copytree(places[kind], tmp_path / "model")
    change(folder)
    refused(f"{'' if kind == 'Hugging Face' else 'open_clip:'}{folder}", part)


def test_names_that_only_open_clip_takes_are_not_looked_up():
    refused("open_clip:local-dir:o/clip", "open_clip has no architecture")


def test_a_snapshot_of_the_hub_is_a_folder_of_open_clip(backbones, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    refused("hf-hub:o/clip", "or run `hf download o/clip`")
    refused("open_clip:hf-hub:o/clip@v1", "or run `hf download o/clip --revision v1`")
    repo = tmp_path / "models--o--clip"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc")
    (repo / "snapshots").mkdir()
    folder = backbones["open_clip"].removeprefix("open_clip:")
    (repo / "snapshots" / "abc").symlink_to(folder)
    x, wanted = images(), zero_shot(backbones["open_clip"])
    assert torch.equal(zero_shot("hf-hub:o/clip")(x), wanted(x))
    refused("o/clip", "it is a model of open_clip, so write hf-hub:o/clip")
    refused(folder, f"it is a model of open_clip, so write open_clip:{folder}")


def test_loading_opens_no_connection(backbones, tmp_path, monkeypatch):
    """Not even where something is missing; the packages' own loaders would download it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    opened = []

    def refuse(*args, **kwargs):
        opened.append(args)
        raise OSError("no network")

    for name in ("socket.socket.connect", "socket.create_connection", "socket.getaddrinfo"):
        monkeypatch.setattr(name, refuse)
    for name in backbones.values():
        assert load_clip(name).logit_scale.isfinite()
    refused("hf-hub:o/clip", "or run `hf download o/clip`")
    refused("o/clip", "or run `hf download o/clip`")
    refused("open_clip:ViT-B-16/laion2b_s34b_b88k", "are not on this machine")
    refused("open_clip:ViT-B-16-SigLIP/webli", "are not on this machine")
    folder = shutil.copytree(backbones["open_clip"].removeprefix("open_clip:"), tmp_path / "model")
    edit(CONFIG, *TEXT_CFG, hf_tokenizer_name="o/words")(folder)
    refused(f"open_clip:{folder}", "needs the tokenizer of o/words, not here yet")
    edit(CONFIG, *TEXT_CFG, hf_tokenizer_name=None, hf_model_name="o/text")(folder)
    refused(f"open_clip:{folder}", "is o/text, whose config.json is not on this machine")
    edit(CONFIG, *TEXT_CFG, hf_model_name=None)(folder)
    edit(CONFIG, *VISION_CFG, timm_model_name="resnet18", timm_model_pretrained=True)(folder)
    refused(f"open_clip:{folder}", "does not hold weights of model that fit CLIP")
    assert not opened


def test_weights_of_hugging_face_in_several_files(backbones, tmp_path):
    folder = shutil.copytree(backbones["Hugging Face"], tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    for i in range(2):
        some = dict(list(state.items())[i::2])
        save_file(some, folder / f"model-0000{i + 1}-of-00002.safetensors")
    (folder / "model.safetensors").unlink()
    x = images()
    assert torch.equal(zero_shot(folder)(x), zero_shot(backbones["Hugging Face"])(x))


def test_a_package_that_a_tokenizer_needs_is_named(backbones, monkeypatch):
    def load(*args, **kwargs):
        raise ImportError("SiglipTokenizer requires the SentencePiece library")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", load)
    refused(backbones["Hugging Face"], "run `pip install sentencepiece protobuf`")


def test_a_tokenizer_of_hugging_face_brings_no_code(backbones, tmp_path):
    folder = shutil.copytree(backbones["Hugging Face"], tmp_path / "model")
    edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]})(folder)
    edit("tokenizer_config.json", tokenizer_class="Mine")(folder)
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    refused(str(folder), "cannot be read")
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------ closed


def test_positions_of_older_versions_of_transformers_are_left_out(places, tmp_path):
    folder = shutil.copytree(places["closed"], tmp_path / "model")
    before = load_clip(f"open_clip:{folder}").state_dict()
    name = "text.transformer.embeddings.position_ids"
    weights(WEIGHTS, **{name: lambda _: torch.arange(24)[None]})(folder)
    after = load_clip(f"open_clip:{folder}").state_dict()
    assert before.keys() == after.keys()


def test_sizes_that_take_any_memory_are_compared_first(places, tmp_path):
    """A table of 128 GB is never allocated, and no random number is drawn."""
    folder = shutil.copytree(places["closed"], tmp_path / "model")
    edit(CONFIG, *TEXT_CFG, vocab_size=10**9)(folder)
    state = torch.get_rng_state()
    refused(f"open_clip:{folder}", "of shape (49408, 32) instead of (1000000000, 32)")
    assert torch.equal(torch.get_rng_state(), state)
