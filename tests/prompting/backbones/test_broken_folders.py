"""Broken folders of open_clip and Hugging Face: one sentence each, and no code is executed."""

import json
import shutil

import pytest
import torch
from foreign import TEXT, images, open_clip_folder, zero_shot
from paths import GOLDEN
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
    content = content if isinstance(content, (str, bytes)) else json.dumps(content)
    content = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / file).write_bytes(content)


def cut(file: str):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:1000])


def pickled(change=lambda state: state, name="pytorch_model.bin"):
    """Return a function that moves the weights into a file of torch.save, changed by `change`."""

    def write(folder):
        (source,) = folder.glob("*.safetensors")
        torch.save(change(load_file(source)), folder / name)
        source.unlink()

    return write


def without(*parts):
    return pickled(lambda state: {k: v for k, v in state.items() if not any(p in k for p in parts)})


def both(*changes):
    return lambda folder: [change(folder) for change in changes]


def weights(file: str, **changes):
    """Return a function that changes weights of a file, or takes those that are None away."""

    def change(folder):
        state = load_file(folder / file)
        state |= {name: value and value(state.get(name)) for name, value in changes.items()}
        save_file({k: v for k, v in state.items() if v is not None}, folder / file)

    return change


def eighth(value):
    return value.to(torch.int8)


def factor(value):
    return torch.full_like(value, 100.0)


PREPARED, LARGE = "preprocessor_config.json", {"height": 10**6, "width": 10**6}
BROKEN_HUGGING_FACE = {
    "8 bits": (
        weights("model.safetensors", **{"visual_projection.weight": eighth}),
        "it has visual.proj of torch.int8, which is not floating point",
    ),
    "a factor": (
        weights("model.safetensors", logit_scale=factor),
        "has a logit_scale of 100, and so multiplies cosines by inf: store the logarithm",
    ),
    "large images": (
        both(
            edit(PREPARED, size=LARGE, crop_size=LARGE),
            edit("config.json", "vision_config", image_size=10**6),
        ),
        "has 1000000 for resolution, where a whole number from 1 to 4,096 belongs",
    ),
    "weights": (cut("model.safetensors"), "model.safetensors' holds no CLIP weights"),
    "pickle": (both(pickled(), cut("pytorch_model.bin")), "pytorch_model.bin' holds no CLIP w"),
    "object": (pickled(lambda state: {**state, "x": print}), "holds objects of print, which could"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
    "no keys": (without(".k_proj."), "holds no CLIP weights"),
    "no projection": (without("text_projection"), "has no text_projection"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "config.json' cannot be read"),
    "list": (write("config.json", []), "config.json' is a list, not an object"),
    "deep": (write("config.json", "[" * 200_000), "config.json' cannot be read (RecursionError"),
    "part": (edit("config.json", text_config=[]), "does not say what CLIP it is"),
    "kind": (edit("config.json", model_type=["clip"]), "has ['clip'] for model_type"),
    "heads": (edit("config.json", "text_config", num_attention_heads=0), "ZeroDivisionError|heads"),
    "odd heads": (edit("config.json", "vision_config", num_attention_heads=5), "heads"),
    "width": (edit("config.json", "vision_config", hidden_size=-1), "vision width|size...-1...is"),
    "patch": (edit("config.json", "vision_config", patch_size=0), "has 0 for patch_size"),
    "layers": (edit("config.json", "text_config", num_hidden_layers=10**5), "has 100000 for text"),
    "more layers": (
        edit("config.json", "vision_config", num_hidden_layers=3),
        "has no visual.transformer.resblocks.2",
    ),
    "text width": (
        edit("config.json", "text_config", hidden_size=64),
        "of shape (24, 32) instead of (24, 64)",
    ),
    "end": (edit("config.json", "text_config", eos_token_id=7), "ends a sentence with token 7 of"),
    "act": (edit("config.json", "text_config", hidden_act="no"), "does not say what CLIP it is"),
    "eps": (edit("config.json", "text_config", layer_norm_eps=-1.0), "has -1.0 for text eps"),
    "no vocabulary": (lambda folder: (folder / "vocab.json").unlink(), "The tokenizer of"),
    "vocabulary": (cut("vocab.json"), "cannot be read"),
    "small vocabulary": (write("vocab.json", {"a": 1}), "tokenizer"),
    "one id for two": (edit("vocab.json", **{"cat</w>": 7}), "or one id for two words"),
    "id too large": (edit("vocab.json", **{"cat</w>": 50_000}), "use the tokenizer of its"),
    "tokenizer": (write("tokenizer.json", '{"version": "1.0"'), "cannot be read"),
    "images": (write(PREPARED, [1]), "is a list, not an object"),
    "mean": (edit(PREPARED, image_mean=[0.5]), "has [0.5] for image mean, where a list"),
    "words": (edit(PREPARED, image_mean=["a", 1, 2]), "not say how to prepare images"),
    "std": (edit(PREPARED, image_std=[0, 1, 1]), "has [0.0, 1.0, 1.0] for image std, where"),
    "none": (edit(PREPARED, image_std=None), "not say how to prepare images"),
    "resample": (edit(PREPARED, resample=[3]), "not say how to prepare images"),
    "size": (edit(PREPARED, size=48, crop_size=48), "images of 48 pixels, but its image enc"),
}
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
FACTOR = "has a logit_scale of 8, and so multiplies cosines by 2980.96: store the logarithm"
VISION_CFG, TEXT_CFG = ("model_cfg", "vision_cfg"), ("model_cfg", "text_cfg")
BROKEN_OPEN_CLIP = {
    "8 bits": (
        weights(WEIGHTS, **{"ln_final.bias": eighth}),
        "ln_final.bias of torch.int8, which is not",
    ),
    "a factor": (weights(WEIGHTS, logit_scale=lambda x: torch.full_like(x, 8.0)), FACTOR),
    "weights": (cut(WEIGHTS), "holds no CLIP weights"),
    "pickle": (
        both(pickled(name="open_clip_pytorch_model.bin"), cut("open_clip_pytorch_model.bin")),
        "open_clip_pytorch_model.bin' holds no CLIP weights",
    ),
    "list": (write(CONFIG, []), "is a list, not an object"),
    "deep": (write(CONFIG, "[" * 200_000), "cannot be read (RecursionError"),
    "model": (edit(CONFIG, model_cfg=[1]), "is not the config of an open_clip model"),
    "part": (edit(CONFIG, "model_cfg", vision_cfg=[1]), "is not the config of an open_clip model"),
    "images": (edit(CONFIG, preprocess_cfg=[1]), "is not the config of an open_clip model"),
    "no width": (
        write(CONFIG, {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}}),
        "is not the config of an open_clip model",
    ),
    "heads": (edit(CONFIG, *TEXT_CFG, heads=0), "has 0 for text heads, where a whole number"),
    "head": (edit(CONFIG, *VISION_CFG, head_width=0), "does not say what CLIP it is (ZeroDivision"),
    "odd heads": (edit(CONFIG, *TEXT_CFG, heads=5), "has 5 for text heads, where a div"),
    "width": (edit(CONFIG, *TEXT_CFG, width=-1), "has -1 for text width"),
    "patch": (edit(CONFIG, *VISION_CFG, patch_size=0), "has 0 for patch_size"),
    "layers": (edit(CONFIG, *TEXT_CFG, layers=100_000), "has 100000 for text layers"),
    "no layers": (edit(CONFIG, *TEXT_CFG, layers=None), "has None for text layers"),
    "stages": (edit(CONFIG, *VISION_CFG, layers=[1, 2]), "has [1, 2] for vision layers"),
    "ratio": (edit(CONFIG, *TEXT_CFG, mlp_ratio=float("nan")), "does not say what CLIP it is"),
    "act": (edit(CONFIG, *TEXT_CFG, act_kwargs={"x": 1}), "does not say what CLIP it is"),
    "eps": (edit(CONFIG, *TEXT_CFG, norm_kwargs={"eps": "x"}), "has 'x' for text eps"),
    "no size": (edit(CONFIG, "model_cfg", embed_dim=None), "has None for embed_dim"),
    "mean": (edit(CONFIG, preprocess_cfg={"mean": [1, 2]}), "has [1, 2] for image mean, where a"),
    "how": (edit(CONFIG, preprocess_cfg={"interpolation": "no"}), "has 'no' for interpolation"),
    "tokenizer": (edit(CONFIG, *TEXT_CFG, tokenizer_kwargs={"x": 1}), "tokenizer_kwargs in its"),
    "tokenizer list": (edit(CONFIG, *TEXT_CFG, tokenizer_kwargs=[1]), "tokenizer_kwargs in its"),
    "words": (edit(CONFIG, *TEXT_CFG, hf_tokenizer_name=3), "needs the tokenizer of 3, not here"),
    "encoder": (edit(CONFIG, *TEXT_CFG, hf_model_name=3), "is 3, whose config.json is not on this"),
    "quick": (edit(CONFIG, "model_cfg", text_cfg={"width": "32"}), "does not say what CLIP it is"),
}


def refused(name, part) -> None:
    """Check that a load says a part in one line; `...` is for other words, `|` for another part."""
    with pytest.raises(UserError) as error:
        load_clip(name)
    said, ways = str(error.value), [way.split("...") for way in part.split("|")]
    assert any(all(words in said for words in way) for way in ways), said
    assert "\n" not in said and "weights_only" not in said


VISION = {"timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "",
          "timm_proj": "linear", "image_size": 32}  # fmt: skip
STEM = "visual.trunk.stem.0.weight"


BROKEN_CLOSED = {
    "one is missing": (weights(WEIGHTS, **{STEM: None}), f"has no {STEM}"),
    "another shape": (
        weights(WEIGHTS, **{STEM: lambda x: x[0]}), f"has {STEM} of shape (3, 4, 4) instead of",
    ),
    "not a number": (
        weights(WEIGHTS, **{STEM: lambda x: x * torch.nan}), f"'{STEM}' in it...finite",
    ),
    "8 bits": (weights(WEIGHTS, **{STEM: eighth}), f"{STEM} of torch.int8, which is not floating"),
    "a factor": (weights(WEIGHTS, logit_scale=lambda x: torch.full_like(x, 8.0)), FACTOR),
    "of the hub": (
        edit(CONFIG, *VISION_CFG, timm_model_name="hf-hub:o/x"), "o/x, which timm would download",
    ),
    "no pixels": (edit(CONFIG, *VISION_CFG, image_size=0), "has 0 for resolution, where a whole"),
    "below": (edit(CONFIG, *VISION_CFG, image_size=-1), "has -1 for resolution, where a whole"),
    "large": (edit(CONFIG, *VISION_CFG, image_size=10**6), "has 1000000 for resolution, where"),
    "cut": (cut(WEIGHTS), "holds no CLIP weights that can be read"),
    "another architecture": (
        write(WEIGHTS, (GOLDEN / "tiny_clip_seed0.safetensors").read_bytes()),
        "check that the weights belong to this architecture",
    ),
    "no such model": (
        edit(CONFIG, *VISION_CFG, timm_model_name="no_such"), "cannot be built (...no_such",
    ),
    "a key that nobody knows": (edit(CONFIG, *VISION_CFG, foo=3), "cannot be built (...'foo'"),
    "no size": (edit(CONFIG, *VISION_CFG, image_size="x"), "are x, not square"),
    "another projection": (edit(CONFIG, *VISION_CFG, timm_proj="zzz"), "cannot be built"),
}  # fmt: skip
BROKEN = {
    "Hugging Face": BROKEN_HUGGING_FACE,
    "open_clip": BROKEN_OPEN_CLIP,
    "closed": BROKEN_CLOSED,
}


@pytest.fixture(scope="module")
def places(backbones, tmp_path_factory):
    """The folders of a backbone of each library, and of one of open_clip with a closed side."""
    config = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "custom_text": True}
    closed = tmp_path_factory.mktemp("closed")
    open_clip_folder(closed, config, {"resize_mode": "squash"})
    places = {library: name.removeprefix("open_clip:") for library, name in backbones.items()}
    return places | {"closed": closed}


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind in BROKEN for case in BROKEN[kind]]
)
def test_a_broken_folder_is_one_sentence(places, tmp_path, kind, case):
    folder = shutil.copytree(places[kind], tmp_path / "model")
    change, part = BROKEN[kind][case]
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
