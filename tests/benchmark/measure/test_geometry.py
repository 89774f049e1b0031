"""Tests of geometries, and that methods read them: encoders of other widths, and ResNets."""

import pytest
import torch
import torch.nn.functional as F

from benchmark.measure.geometry import BERT, GEOMETRY, SIGLIP, untrained_clip
from trainers.prompting import UserError, build_clip, build_method
from trainers.prompting.building.config import methods_on
from trainers.prompting.method import METHODS

NAMES = ["forest", "sea or lake", "annual crop land"]
OF_LOSS = "mid_image_trans."  # of TextRefiner: logits do not depend on it
SHALLOW = {
    "TPS": {"SENTENCES": {"*": ["a photo of a {}."]}},
    "TwoSFS": {"STAGE": 1},
    "CrossModal": {"ITERS": 9},
    "VPT": {"PROMPT_DEPTH_VISION": 2},
    "IVLP": {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 1, "N_CTX_VISION": 3},
    "MaPLe": {"PROMPT_DEPTH": 2},
    "UPT": {"PROMPT_DEPTH": 2},
    "ALIGN": {"DEPTH": 2, "M": 2, "N": 3},
    "PromptSRC": {"PROMPT_DEPTH_VISION": 2, "PROMPT_DEPTH_TEXT": 2},
    "CoPrompt": {"PROMPT_DEPTH": 2},
    "MultiModalAdapter": {"ADAPTER_START": 0, "ADAPTER_END": 2},
    "HiCroPL": {"PROMPT_DEPTH": 2, "CROSS_LAYER": 1, "SENTENCES": {"*": ["a {}."]}},
    "MMRL": {"REP_LAYERS": [1, 2]},
    "MMRLpp": {"REP_LAYERS": [1, 2]},
    "SkipTuning": {"START_LAYER": 1, "TOP_RATIO": 1.0},
    "CLIPLoRA": {"PARAMS": ["q", "o", "fc", "proj"], "DROPOUT_RATE": 0.0},
    "MMP": {"TEXT_PROMPT_DEPTH": 2, "VISION_PROMPT_NUMBER": 2, "TEXT_PROMPT_NUMBER": 2},
}


def small_clip(vision_layers, vision_width, patch, resolution):
    torch.manual_seed(0)
    return build_clip(
        {
            "embed_dim": 32,
            "image_resolution": resolution,
            "vision_layers": vision_layers,
            "vision_width": vision_width,
            "vision_patch_size": patch,
            "context_length": 77,
            "vocab_size": 49408,
            "transformer_width": 64,
            "transformer_heads": 1,
            "transformer_layers": 3,
        }
    )


@pytest.fixture(scope="module")
def uneven_clip():
    """Return a CLIP with text width 64, image width 128, feature width 32; 3 and 2 blocks."""
    return small_clip(2, 128, 8, 32)


@pytest.fixture(scope="module")
def resnet():
    return small_clip((1, 1, 1, 1), 16, None, 64)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "PromptKD"])  # no teacher
def test_every_method_works_where_all_widths_differ(uneven_clip, method):
    node = SHALLOW.get(method, {}) | ({"INSERT_BLOCK": 1} if method == "TCP" else {})
    built = build_method(method, node, uneven_clip, NAMES)
    if built.support_passes:
        built.make_room(3)
        built.take_support(torch.randn(1, 3, built.row_width), torch.arange(3))
    model = built.train()
    images = torch.randn(2, 3, 32, 32)
    own = {name: p for name, p in model.learned().items() if not name.startswith(OF_LOSS)}
    with torch.no_grad():  # parameters that start at zero would leave others without a gradient
        for p in own.values():
            p.any() or p.normal_(std=0.02)
    logits = model(images)
    assert logits.shape == (2, 3) and logits.isfinite().all()
    if own:
        F.cross_entropy(logits, torch.tensor([0, 2])).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in own.values())
    assert torch.allclose(model.eval()(images), logits.detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "method", ["VPT", "IVLP", "MaPLe", "UPT", "ALIGN", "PromptSRC", "CoPrompt", "MMP", "HiCroPL"]
)
def test_visual_prompts_need_a_vit(resnet, method):
    with pytest.raises(UserError, match="backbone is a ResNet") as error:
        build_method(method, SHALLOW[method], resnet, NAMES)
    assert "choose a ViT" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "method, node",
    [
        ("CoOp", {"CSC": True, "N_CTX": 4}),
        ("CoCoOp", {"N_CTX": 4}),
        ("PLOT", {"N_CTX": 4}),
        ("ZeroshotCLIP", {}),
        ("ALIGN", {"M": 0, "DEPTH": 2}),
        ("IVLP", {"N_CTX_VISION": 0, "PROMPT_DEPTH_VISION": 0, "PROMPT_DEPTH_TEXT": 2}),
    ],
)
def test_textual_prompts_work_on_a_resnet(resnet, method, node):
    model = build_method(method, node, resnet, NAMES).train()
    logits = model(torch.randn(2, 3, 64, 64))
    assert logits.shape == (2, 3) and logits.isfinite().all()
    own = model.public_parameters()
    if own:
        F.cross_entropy(logits, torch.tensor([0, 2])).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in own.values())


def test_the_geometry_of_siglip_is_open_clips():
    pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    from trainers.prompting.backbones.openclip import without_weights

    with torch.device("meta"):
        ours = untrained_clip(SIGLIP["SigLIP2-B/16"])
    theirs = without_weights("ViT-B-16-SigLIP2").state_dict()
    assert {n: x.shape for n, x in ours.state_dict().items()} == {
        n: x.shape for n, x in theirs.items()
    }


@pytest.mark.slow
def test_all_methods_run_on_biomedclips_shape():
    pytest.importorskip("transformers", reason="transformers is not installed")
    with torch.device("meta"):
        ours = untrained_clip(BERT["BiomedCLIP"])
    assert not [name for name, reason in methods_on(ours).items() if reason]


def test_the_geometries_are_those_of_clip():
    """The numbers of parameters are those of OpenAI's models."""
    for name, count in {"ViT-B/32": 151_277_313, "ViT-B/16": 149_620_737}.items():
        with torch.device("meta"):
            net = untrained_clip(GEOMETRY[name])
        assert sum(p.numel() for p in net.parameters()) == count
