"""CLIPs of open_clip and Hugging Face: their logits, a step of every method, images, refusals."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import slow_but
from dassl.config import get_cfg_default
from foreign import (
    NAMES,
    SENTENCES,
    hugging_face_folder,
    images,
    learns,
    open_clip_config,
    open_clip_folder,
    zero_shot,
)
from models import settings, support_of
from PIL import Image
from safetensors.torch import load_file

from trainers.prompting import UserError, build_method, extend_cfg, load_clip
from trainers.prompting.backbones import absolute, check_weights, hugging_face
from trainers.prompting.building.config import fit_images
from trainers.prompting.building.transforms import Images, Plain
from trainers.prompting.capabilities.staged import stages_of
from trainers.prompting.method import METHODS
from trainers.prompting.use.commands.export import metadata

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

OPEN_CLIP = {
    "GELU": open_clip_config(),
    "QuickGELU": open_clip_config(quick_gelu=True),
    "tanh GELU": open_clip_config(*[{"act_kwargs": {"approximate": "tanh"}}] * 2),
    "layer scale": open_clip_config({"ls_init_value": 0.5}, {"ls_init_value": 0.5}),
    "wide MLP": open_clip_config({"mlp_ratio": 3.0}, {"mlp_ratio": 4.9231}),
    "LayerNorm": open_clip_config(*[{"norm_kwargs": {"eps": 0.1}}] * 2),
    "bias": open_clip_config(init_logit_scale=1.0, init_logit_bias=-2.0),
    "text apart": open_clip_config(custom_text=True),
    "end token": open_clip_config(
        text={"pool_type": "eos", "eos_id": 49407}, custom_text=True, quick_gelu=True
    ),
}


@torch.no_grad()
def logits_of_open_clip(model, x):
    z = model.encode_image(x, normalize=True)
    h = model.encode_text(open_clip.tokenize(SENTENCES, 24), normalize=True)
    bias = 0 if model.logit_bias is None else model.logit_bias
    return model.logit_scale.exp() * z @ h.T + bias


@pytest.mark.parametrize("kind", OPEN_CLIP)
def test_logits_are_those_of_open_clip(tmp_path, kind):
    folder, model = open_clip_folder(tmp_path, OPEN_CLIP[kind])
    x, ours = images(), zero_shot(f"open_clip:{folder}")
    torch.testing.assert_close(ours(x), logits_of_open_clip(model, x), atol=1e-5, rtol=1e-5)


def test_a_resnet_of_open_clip_takes_only_textual_prompts(tmp_path):
    vision = open_clip.get_model_config("RN50")["vision_cfg"]
    assert vision["patch_size"] is None
    vision |= {"layers": [1, 1, 1, 1], "width": 8, "head_width": 16, "image_size": 32}
    config = open_clip_config(vision, quick_gelu=True)
    folder, model = open_clip_folder(tmp_path, config)
    x, ours = images(), zero_shot(f"open_clip:{folder}")
    torch.testing.assert_close(ours(x), logits_of_open_clip(model, x), atol=1e-5, rtol=1e-5)
    clip_model = load_clip(f"open_clip:{folder}")
    assert build_method("CoOp", {}, clip_model, NAMES)(x).shape == (4, 3)
    with pytest.raises(UserError, match="The backbone is a ResNet"):
        build_method("VPT", {}, clip_model, NAMES)


def test_low_rank_updates_of_an_mlp_of_any_width(tmp_path):
    folder, _ = open_clip_folder(tmp_path, OPEN_CLIP["wide MLP"])
    node = {"PARAMS": ["q", "fc", "proj"]}
    learns(build_method("CLIPLoRA", node, load_clip(f"open_clip:{folder}"), NAMES), images())


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", "gelu_pytorch_tanh"])
def test_logits_are_those_of_transformers(tmp_path, act):
    folder, model = hugging_face_folder(tmp_path, hidden_act=act, layer_norm_eps=1e-3)
    x, ours = images(), zero_shot(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)(
        SENTENCES, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        theirs = model(**words, pixel_values=x).logits_per_image
    torch.testing.assert_close(ours(x), theirs, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def loaded(backbones):
    return {library: load_clip(name) for library, name in backbones.items()}


QUICK = ("ALIGN", "CoOp", "MaPLe", "VPT", "GalLoP", "TipAdapterF", "TPT", "CLIPLoRA", "MMRL")


CASES = [("Hugging Face", name) for name in METHODS] + [("open_clip", name) for name in QUICK]
QUICK_CASES = [case for case in CASES if case[1] in QUICK]


@pytest.mark.parametrize("case", slow_but(CASES, *QUICK_CASES), ids=" ".join)
def test_every_method_learns_on_them(loaded, case):
    library, name = case
    kind, clip_model = METHODS[name], loaded[library]
    shallow = {"ADAPTER_START": 1, "ADAPTER_END": 2, "REP_LAYERS": [1, 2], "START_LAYER": 1}
    shallow |= {"SEARCH_HP": False, "DEPTH_VISION": [1], "DEPTH_TEXT": [1]}
    node = settings(name) | {key: x for key, x in shallow.items() if key in kind.defaults}
    support = support_of(name, NAMES, clip_model.visual.input_resolution)
    built = build_method(name, node, clip_model, NAMES, support=support).train()
    if not kind.trains:
        assert built.eval()(images()).isfinite().all()
        return
    x, labels = images(), torch.tensor([0, 1, 2, 0])
    views = [x] * kind.views
    optimizer = torch.optim.SGD(built.learned().values(), lr=1e-3)
    before = built.losses(views, labels)
    built.backward(before)
    names = stages_of(built)[0].parameters
    learned = {n: p for n, p in built.learned().items() if not names or n.startswith(tuple(names))}
    for name, p in learned.items():
        assert p.grad is not None and p.grad.isfinite().all(), name
    assert any(p.grad.any() for p in learned.values())
    optimizer.step()
    assert built.losses(views, labels)["loss"].isfinite()


def test_a_backbone_says_how_images_are_prepared(backbones, tmp_path):
    family = load_clip(backbones["Hugging Face"]).family
    assert family[1:5] == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "shortest")
    prepared = {"mean": [0.1, 0.2, 0.3], "interpolation": "bilinear", "resize_mode": "shortest"}
    folder, _ = open_clip_folder(tmp_path, open_clip_config(), prepared)
    family = load_clip(f"open_clip:{folder}").family
    assert family.mean == (0.1, 0.2, 0.3) and family.interpolation == "bilinear"
    assert family.std == open_clip.OPENAI_DATASET_STD
    for name in backbones.values():
        clip_model = load_clip(name)
        tokenizer, count = clip_model.family.tokenizer, len(clip_model.token_embedding.weight)
        assert tokenizer[2:5] == (count - 2, count - 1, None)
        ids = tokenizer.encode("A photo of a café.")
        assert tokenizer.decode(ids).strip() == "a photo of a café ."
        assert tokenizer.decode(ids[1:2]) == "photo "


def test_released_names_of_open_clip_are_never_downloaded():
    with pytest.raises(UserError, match=r"not on this machine: `python -c .*'laion2b_s34b_b88k'\)"):
        load_clip("open_clip:ViT-B-16/laion2b_s34b_b88k")
    with pytest.raises(UserError, match="open_clip:ViT-B-16-quickgelu/openai"):
        load_clip("open_clip:ViT-B-16/openai")
    with pytest.raises(UserError, match="did you mean 'laion400m_e32'"):
        load_clip("open_clip:ViT-B-16/laion400_e32")
    with pytest.raises(UserError, match="did you mean 'ViT-B-16'"):
        load_clip("open_clip:ViT-B16/openai")
    with pytest.raises(UserError, match="ViT-B-16-SigLIP/webli are not on this machine"):
        load_clip("open_clip:ViT-B-16-SigLIP/webli")
    with pytest.raises(UserError, match="ViT-B-16-SigLIP/webli are not on this machine"):
        check_weights("open_clip:ViT-B-16-SigLIP/webli")


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_of_another_architecture_are_refused(backbones, tmp_path, monkeypatch, suffix):
    folder = backbones["open_clip"].removeprefix("open_clip:")
    file = f"{folder}/open_clip_model.safetensors"
    if suffix == "pt":
        state = {f"module.{name}": value for name, value in load_file(file).items()}
        file = tmp_path / "epoch_3.pt"
        torch.save({"epoch": 3, "state_dict": state}, file)
    with pytest.raises(UserError, match="does not hold weights of ViT-B-16") as error:
        load_clip(f"open_clip:ViT-B-16/{file}")
    assert "\n" not in str(error.value)
    config = json.loads((Path(folder) / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)
    x = images()
    own = zero_shot(f"open_clip:small/{file}")(x)
    assert torch.equal(own, zero_shot(backbones["open_clip"])(x))


@pytest.mark.parametrize(
    "name, package", [("open_clip:ViT-B-16/x", "open_clip_torch"), ("o/clip", "transformers")]
)
def test_a_missing_package_is_named(monkeypatch, name, package):
    monkeypatch.setitem(__import__("sys").modules, package.removesuffix("_torch"), None)
    with pytest.raises(UserError, match=f"`pip install {package}`"):
        load_clip(name)


def test_a_path_in_a_name_holds_in_any_working_folder(tmp_path, monkeypatch):
    (tmp_path / "x.pt").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    assert absolute("ViT-B/16") == "ViT-B/16"
    assert absolute("x.pt") == str(tmp_path / "x.pt")
    assert absolute("open_clip:folder") == f"open_clip:{tmp_path}/folder"
    assert absolute("open_clip:ViT-B-16/x.pt") == f"open_clip:ViT-B-16/{tmp_path}/x.pt"
    assert absolute("open_clip:ViT-B-16/openai") == "open_clip:ViT-B-16/openai"
    assert absolute("open_clip:hf-hub:o/folder") == "open_clip:hf-hub:o/folder"


# ------------------------------------------------------------------ images of transformers

SIZE = 32  # of the images that the model reads
CROP = {"do_center_crop": True, "crop_size": {"height": SIZE, "width": SIZE}}
ALIGN = CROP | {
    "image_processor_type": "EfficientNetImageProcessor", "size": {"height": 40, "width": 40},
    "do_normalize": False, "rescale_factor": 1 / 127.5, "rescale_offset": True,
    "include_top": False, "resample": 2,
}  # fmt: skip
SIGLIP = {"image_processor_type": "SiglipImageProcessor"}
CLIP = CROP | {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}}
READ = {
    "a crop": (CLIP, "shortest"),
    "an old file": ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 36,
                     "crop_size": 32}, "shortest 36"),
    "squashed": (SIGLIP | {"size": {"height": 32, "width": 32}}, "squash"),
    "squashed and cropped": (ALIGN, "squash 40"),
    "not normalised": (CLIP | {"do_normalize": False}, "shortest"),
    "not rescaled": (CLIP | {"do_rescale": False}, "shortest"),
    "no size": (SIGLIP, "squash"),
}  # fmt: skip
REFUSED = {
    "do_resize": CLIP | {"do_resize": False},
    "do_pad": CLIP | {"do_pad": True},
    "longest_edge": CLIP | {"size": {"longest_edge": 32}},
    "64": CLIP | {"crop_size": {"height": 32, "width": 64}},
}  # fmt: skip


def read_preparation(folder, how):
    """Write how images are prepared, and return it as it is read."""
    config = {"model_type": "clip", "vision_config": {"image_size": SIZE}}
    (folder / "config.json").write_text(json.dumps(config))
    content = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]} | how
    nested = "image_processor_type" in how  # as newer versions save it
    name = "processor_config.json" if nested else "preprocessor_config.json"
    content = {"image_processor": content} if nested else content
    (folder / name).write_text(json.dumps(content))
    return hugging_face._images(transformers, folder, "mine", config)


@pytest.mark.parametrize("case", READ)
def test_pixels_are_those_of_the_processor(tmp_path, case):
    how, resize = READ[case]
    family, size = read_preparation(tmp_path, how)
    assert family.resize == resize and size == SIZE
    visual = SimpleNamespace(input_resolution=SIZE)
    images = Images.of(SimpleNamespace(family=family, visual=visual))
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.INPUT.TRANSFORMS = ["normalize"]
    cfg, _ = fit_images(cfg, SimpleNamespace(family=family, visual=visual))
    assert Images.in_config(cfg.INPUT) == images  # as a training sets it
    x = np.add.outer(np.arange(60) * 2, np.arange(90))  # smooth: few pixels differ by rounding
    image = Image.fromarray(np.stack([x, 255 - x, x // 2], -1).astype(np.uint8))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    size = {} if "size" in how else {"size": {"height": SIZE, "width": SIZE}}
    wanted = processor(images=image, return_tensors="pt", **size).pixel_values[0]
    found = Plain(images)(image)
    levels = torch.tensor(images.std)[:, None, None] * 255
    assert found.shape == wanted.shape == (3, SIZE, SIZE)
    assert ((found - wanted) * levels).abs().max() <= 1.01  # levels of 256
    run = SimpleNamespace(
        images=images, method="", backbone="", classnames=[], calibration="", temperature=1.0,
        several=False,
    )  # fmt: skip
    assert f"{metadata(run)['resize']} {metadata(run)['resize_to']}".startswith(resize)


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_done_is_refused(tmp_path, said):
    with pytest.raises(UserError, match="not prepare images as squares .*choose another"):
        read_preparation(tmp_path, REFUSED[said])
