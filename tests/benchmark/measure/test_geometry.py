"""Tests of geometries, and that methods read them: encoders of other widths, and ResNets."""

import pytest
import torch
import torch.nn.functional as F
from models import settings

from benchmark.measure.geometry import BERT, GEOMETRY, SIGLIP, untrained_clip
from trainers.prompting import UserError, build_method
from trainers.prompting.building.build import methods_on
from trainers.prompting.capabilities.on_support import OnSupport
from trainers.prompting.capabilities.per_class import make_room
from trainers.prompting.method import METHODS

NAMES = ["forest", "sea or lake", "annual crop land"]
OF_LOSS = "mid_image_trans."  # of TextRefiner: logits do not depend on it
OWN = {  # settings besides those that fit four blocks
    "TwoSFS": {"STAGE": 1},
    "SkipTuning": {"TOP_RATIO": 1.0},
    "TransCLIP": {"FEW_SHOT": False},
    "MMAPP": {"ADAPTER_DROP": 0.0, "ADAPTER_TEST_SCALE": 0.01},  # that of a training
    "AWTFewShot": {"SENTENCES": ""},  # one view and one sentence
    "CLIPLoRA": {"PARAMS": ["q", "o", "fc", "proj"], "DROPOUT_RATE": 0.0},
}


def small_clip(vision_layers, vision_width, patch, resolution, text_layers=3):
    torch.manual_seed(0)
    vision = resolution, vision_layers, vision_width, patch
    return untrained_clip((32, *vision, 77, 49408, 64, 1, text_layers))


@pytest.fixture(scope="module")
def uneven_clip():
    """Return a CLIP with text width 64, image width 128, feature width 32; 5 and 4 blocks."""
    return small_clip(4, 128, 8, 32, text_layers=5)


@pytest.fixture(scope="module")
def resnet():
    return small_clip((1, 1, 1, 1), 16, None, 64)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "PromptKD"])  # no teacher
def test_every_method_works_where_all_widths_differ(uneven_clip, method):
    node = settings(method) | OWN.get(method, {})
    about = {"sentences": "a {}."} if method == "MMAPP" else {}  # which draws one of several
    built = build_method(method, node, uneven_clip, NAMES, **about)
    if isinstance(built, OnSupport) and built.support_passes:
        make_room(built, 3)
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
    same = torch.allclose(model.eval()(images), logits.detach(), rtol=1e-3, atol=1e-3)
    assert same or method == "RAM"  # in training it normalises over a batch


@pytest.mark.parametrize(
    "method", ["VPT", "IVLP", "MaPLe", "UPT", "ALIGN", "PromptSRC", "CoPrompt", "MMP", "HiCroPL"]
)
def test_visual_prompts_need_a_vit(resnet, method):
    with pytest.raises(UserError, match="backbone is a ResNet") as error:
        build_method(method, settings(method), resnet, NAMES)
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
