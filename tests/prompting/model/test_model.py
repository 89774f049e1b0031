"""Prompted CLIPs: methods as special cases of ALIGN, gradients, caching, and bad settings."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from models import NAMES, align, images, model_of, outcome
from paths import GOLDEN

from trainers.prompting import UserError, build_clip
from trainers.prompting.encoders.templates import ZERO_SHOT, template_of
from trainers.prompting.method import METHODS
from trainers.prompting.model.parts import Parts
from trainers.prompting.trainer.config import prompt_spec

SAME = {
    "CoOp": ({"N_CTX": 16}, {"M": 0, "N": 1, "BETA": 0, "N_CTX": 16, "DEPTH": 1, "CTX_INIT": ""}),
    "VPT": (
        {"N_CTX_VISION": 4, "PROMPT_DEPTH_VISION": 3},
        {"M": 1, "N": 0, "BETA": 0, "N_CTX": 4, "DEPTH": 3},
    ),
    "MaPLe": ({"PROMPT_DEPTH": 3}, {"M": 1, "N": 1, "BETA": 0, "DEPTH": 3}),
    "UPT": (
        {"PROMPT_DEPTH": 2},
        {"M": 1, "N": 1, "BETA": 0, "COUPLING": "unified", "N_CTX": 4, "DEPTH": 2},
    ),
    "IVLP": (
        {"PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3},
        {"M": 1, "N": 1, "BETA": 0, "COUPLING": "independent", "DEPTH": 3},
    ),
}


@pytest.mark.parametrize("method", SAME)
def test_a_method_is_a_special_case_of_align(tiny_clip, method):
    node, settings = SAME[method]
    model = model_of(tiny_clip, method, node)
    logits, grads = outcome(model)
    same_logits, same_grads = outcome(
        model_of(tiny_clip, "ALIGN", settings), model.public_state_dict()
    )
    assert (logits - same_logits).abs().max() < 2e-5 * logits.abs().max()
    assert set(grads) == set(same_grads)
    for name, grad in grads.items():
        error = (grad.squeeze() - same_grads[name].squeeze()).norm()
        assert error <= 5e-6 * grad.norm(), name


def test_align_without_prompts_is_zero_shot_clip(tiny_clip):
    model, zero_shot = align(tiny_clip, 0, 0, BETA=0), model_of(tiny_clip, "ZeroshotCLIP", {})
    assert not model.public_parameters()
    assert torch.allclose(model(images()), zero_shot(images()), atol=1e-4)


@pytest.mark.parametrize("M, N", [(0, 3), (3, 0), (2, 4), (4, 2), (1, 1)])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_every_number_of_prompts_trains(tiny_clip, M, N, beta):
    model = align(tiny_clip, M, N, BETA=beta)
    logits, grads = outcome(model)
    assert logits.shape == (3, 5) and logits.isfinite().all()
    assert all(g is not None and g.isfinite().all() and g.abs().sum() > 0 for g in grads.values())
    frozen = [p for e in (model.text_encoder, model.image_encoder) for p in e.parameters()]
    assert not any(p.requires_grad for p in frozen)


def test_prompts_never_start_equal(tiny_clip):
    for words in (None, ["a photo of a"] * 4, ""):
        ctx = align(tiny_clip, 4, 4, CTX_INIT=words).prompt_learner.ctx
        for i, j in itertools.combinations(range(4), 2):
            assert (ctx[i] - ctx[j]).abs().max() > 1e-3


def test_logits_agree_with_stock_clip(tiny_clip):
    """Compares zero-shot logits with CLIP's own forward pass on 77 positions."""
    from trainers.prompting.backbones.openai_clip import clip

    template = template_of(ZERO_SHOT, "EuroSAT")
    tokens = clip.tokenize([template.format(n.replace("_", " ")) for n in NAMES])
    expected = tiny_clip(images(), tokens)[0]
    assert torch.allclose(
        model_of(tiny_clip, "ZeroshotCLIP", {})(images()), expected, rtol=1e-4, atol=1e-4
    )


def test_prompted_text_agrees_with_stock_clip_on_77_positions(tiny_clip):
    """Compares our packed text encoder with CLIP's, for the same embeddings."""
    from trainers.prompting.backbones.openai_clip import clip

    model = model_of(tiny_clip, "CoOp", {"N_CTX": 4, "CTX_INIT": "a photo of a"})
    tokens = clip.tokenize([f"a photo of a {n.replace('_', ' ')}." for n in NAMES])
    x = tiny_clip.token_embedding(tokens).detach()
    ctx = torch.randn(4, x.shape[-1])
    model.load_public_state_dict({"ctx": ctx})
    x[:, 1:5] = ctx
    x = tiny_clip.transformer((x + tiny_clip.positional_embedding).transpose(0, 1)).transpose(0, 1)
    x = tiny_clip.ln_final(x)[torch.arange(len(x)), tokens.argmax(-1)] @ tiny_clip.text_projection
    assert torch.allclose(model.eval().text_features().raw[0], x, atol=1e-4)


def test_results_depend_neither_on_chunks_nor_on_the_batch(tiny_clip):
    model = align(tiny_clip, 2, 3).eval()
    whole = model(images())
    model.chunk_bytes = 1  # one image and class at a time
    assert torch.allclose(model(images()), whole, atol=1e-4)
    assert torch.allclose(model(images()[1:2]), whole[1:2], atol=1e-4)


def test_beta_zero_never_touches_the_token_level(tiny_clip, monkeypatch):
    from trainers.prompting import scores

    monkeypatch.setattr(scores, "token_distances", None)
    assert align(tiny_clip, 2, 2, BETA=0.0)(images()).isfinite().all()


def test_text_features_are_computed_once_until_a_prompt_changes(tiny_clip):
    model = align(tiny_clip, 1, 2).eval()
    calls = []
    model.text_encoder.register_forward_hook(lambda *args: calls.append(1))
    before = model(images())
    model(images())
    assert len(calls) == 1
    with torch.no_grad():
        model.prompt_learner.ctx.add_(0.1)
    after = model(images())
    assert len(calls) == 2 and not torch.allclose(before, after)
    model.train().eval()(images())
    assert len(calls) == 3


def test_fixed_text_is_encoded_once_even_if_later_parts_are_trained(tiny_clip):
    class Shift(Parts):
        def __init__(self):
            super().__init__()
            self.by = torch.nn.Parameter(torch.zeros(64))

        def text(self, features):
            return features._replace(h=F.normalize(features.h + self.by, dim=-1))

    model = model_of(copy.deepcopy(tiny_clip), "ZeroshotCLIP", {})
    model.parts = Shift()
    calls = []
    model.text_encoder.register_forward_hook(lambda *args: calls.append(1))
    with torch.inference_mode():  # training must be able to use the features kept here
        model.eval()(images())
    optimizer = torch.optim.SGD(model.parts.parameters(), lr=0.1)
    seen = []
    for _ in range(3):
        logits = model.train()(images())
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        optimizer.step()
        seen.append(logits.detach())
        torch.testing.assert_close(model.eval()(images()), model.train()(images()).detach())
    assert len(calls) == 1 and not torch.allclose(seen[1], seen[2])
    with torch.no_grad():
        model.text_encoder.text_projection.mul_(1.5)
    model(images())
    assert len(calls) == 2


def test_same_seed_same_bits(tiny_clip):
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        runs.append(outcome(align(tiny_clip, 2, 2)))
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(runs[0][1][n], runs[1][1][n]) for n in runs[0][1])


def test_templates_of_different_lengths_share_one_batch(tiny_clip):
    words = ["a photo of a", "a bad blurry photo of the"]
    both = align(tiny_clip, 0, 2, CTX_INIT=words, DEPTH=1).eval()
    h = both.text_features().h
    for n, template in enumerate(words):
        alone = align(tiny_clip, 0, 1, CTX_INIT=template, DEPTH=1)
        alone.load_public_state_dict({"ctx": both.prompt_learner.ctx[n : n + 1]})
        assert torch.allclose(alone.eval().text_features().h[0], h[n], atol=1e-5)


def test_a_single_class_and_names_with_a_common_start(tiny_clip):
    for names in (["forest"], ["red fox", "red fox cub"], ["é", "日本 (old)"]):
        for beta in (0.0, 1.0):
            logits = align(tiny_clip, 2, 2, names, BETA=beta)(images())
            assert logits.shape == (3, len(names)) and logits.isfinite().all()


BAD = {
    "too deep for the text encoder": ("ALIGN", {"DEPTH": 5}, "has 4 blocks"),
    "too deep for the image encoder": ("VPT", {"PROMPT_DEPTH_VISION": 5}, "has 4 blocks"),
    "negative M": ("ALIGN", {"M": -1}, "M is -1"),
    "no tokens": ("ALIGN", {"N_CTX": 0}, "N_CTX is 0"),
    "convex beta": ("ALIGN", {"BETA": 2.0, "BETA_FORM": "convex"}, "BETA is 2.0"),
    "unknown key": ("ALIGN", {"N_CTXX": 2}, "did you mean 'N_CTX'"),
    "unknown coupling": ("ALIGN", {"COUPLING": "both"}, "independent"),
    "too few templates": ("ALIGN", {"CTX_INIT": ["a photo"]}, "1 templates but N = 4"),
    "short template": ("ALIGN", {"CTX_INIT": "photo", "N_CTX": 3}, "N_CTX is 3"),
    "regularisation": ("ALIGN", {"LAMBDA": 0.0}, "LAMBDA is 0.0"),
    "context too long": ("CoOp", {"N_CTX": 75}, "too long"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_one_sentence(tiny_clip, case):
    method, node, part = BAD[case]
    if "DEPTH" not in node and method == "ALIGN":
        node = {"DEPTH": 2, **node}
    with pytest.raises(UserError, match=part) as error:
        model_of(tiny_clip, method, node)
    assert "\n" not in str(error.value)


def test_a_class_name_that_is_too_long_is_named(tiny_clip):
    with pytest.raises(UserError, match="'very very.*' is too long"):
        align(tiny_clip, 1, 1, ["very " * 80, "cat"])


def test_an_unknown_method_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'MaPLe'"):
        prompt_spec("Maple", {})


def test_checkpoints_that_do_not_fit(tiny_clip):
    state = align(tiny_clip, 2, 2).public_state_dict()
    with pytest.raises(UserError, match="another method, or of deeper prompts"):
        align(tiny_clip, 2, 2, DEPTH=2).load_public_state_dict(state)
    with pytest.raises(UserError, match="lacks.*shallower"):
        align(tiny_clip, 2, 2, DEPTH=4).load_public_state_dict(state)
    with pytest.raises(UserError, match=r"has shape \(2, 2, 128\)"):
        align(tiny_clip, 3, 3).load_public_state_dict(state)
    with pytest.raises(UserError, match="another method"):
        model_of(tiny_clip, "CoOp", {}).load_public_state_dict(state)


def test_a_whole_public_model_loads_and_its_frozen_part_is_ignored(tiny_clip):
    model = model_of(tiny_clip, "MaPLe", {"PROMPT_DEPTH": 2})
    whole = {k: v + 1 for k, v in model.public_state_dict().items()}
    whole |= {"image_encoder." + k: v for k, v in tiny_clip.visual.state_dict().items()}
    whole |= {"text_encoder." + k: v for k, v in tiny_clip.state_dict().items()
              if k.startswith(("transformer.", "ln_final.", "positional_"))}  # fmt: skip
    whole["logit_scale"] = torch.tensor(1.0)
    whole["prompt_learner.token_prefix"] = torch.zeros(99, 1, 128)
    whole["prompt_learner.token_suffix"] = torch.zeros(99, 74, 128)
    before = {k: v.clone() for k, v in tiny_clip.state_dict().items()}
    model.load_public_state_dict(whole)
    assert torch.equal(model.prompt_learner.ctx, whole["prompt_learner.ctx"])
    assert all(torch.equal(v, before[k]) for k, v in tiny_clip.state_dict().items())


def test_resnet_takes_the_methods_without_visual_prompts():
    arch = {
        "embed_dim": 64, "image_resolution": 64, "vision_layers": (1, 1, 1, 1), "vision_width": 16,
        "vision_patch_size": None, "context_length": 77, "vocab_size": 49408,
        "transformer_width": 64, "transformer_heads": 1, "transformer_layers": 2,
    }  # fmt: skip
    torch.manual_seed(0)
    resnet = build_clip(arch)
    x = torch.randn(2, 3, 64, 64)
    for method, node in (("CoOp", {"N_CTX": 4}), ("PLOT", {}), ("ZeroshotCLIP", {}),
                         ("ALIGN", {"M": 0, "DEPTH": 2})):  # fmt: skip
        assert model_of(resnet, method, node)(x).isfinite().all()
    expected = F.normalize(resnet.encode_image(x), dim=-1)
    local = model_of(resnet, "PLOT", {}).image_encoder.eval()(x)
    assert torch.allclose(local.z[:, 0], expected, atol=1e-5)
    with pytest.raises(UserError, match="ResNet"):
        model_of(resnet, "MaPLe", {"PROMPT_DEPTH": 1})


def test_golden_folder_covers_every_public_method():
    """UPT has no golden file, as it was not compared with published code."""
    stems = " ".join(p.stem for p in GOLDEN.glob("*.safetensors"))
    prefix = {"MMP": "align_released", "ALIGN": "align_paper", "ZeroshotCLIP": "zeroshot_clip"}
    prefix |= {"MultiModalAdapter": "mma", "CLIPAdapter": "clip_adapter"}
    prefix |= {"TipAdapter": "tip_adapter", "TipAdapterF": "tip_adapter_f"}
    ours = {name for name, kind in METHODS.items() if kind.__module__.startswith("trainers.")}
    for method in ours - {"UPT"}:
        assert prefix.get(method, method.lower()) in stems


def test_weights_held_in_half_precision_equal_autocasts(tiny_clip):
    model = align(copy.deepcopy(tiny_clip), 2, 2).eval()
    exact = model(images())
    with torch.autocast("cpu", torch.bfloat16):
        cast = model.train().eval()(images())  # `train` drops the text features kept above
        model.hold_weights_in(torch.bfloat16)
        held = model.train().eval()(images())
    assert torch.equal(cast, held)
    assert 0 < (held - exact).abs().max() < 0.1 * exact.std()
