"""SOT-GLP and PLOT++: every number of their golden files, classes, stages, checkpoints, errors."""

import re
from math import cos, pi

import pytest
import torch
import torch.nn.functional as F
from golden_files import build, node_of, read
from models import saved
from paths import GOLDEN
from tiny import run

from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.files import read_checkpoint
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.trainer.detection import scores
from trainers.prompting.transport.released import sinkhorn_released

PLOTPP = ("plotpp", "plotpp_vision")


@pytest.fixture
def of(tiny_clip, tmp_path):
    """Return a golden file, its method in eval mode, and the output for its images."""

    def of(name, **more):
        golden = read(GOLDEN / f"{name}.safetensors")
        method = build(golden, tiny_clip, tmp_path, **more).eval()
        with torch.no_grad():
            return golden, method, method.output(golden.tensors["image"])

    return of


def near(found, expected, tolerance=1e-5):
    return (found - expected).abs().max() < tolerance * max(1, expected.abs().max())


def one_by_one(method, golden):
    """Return the logits of images in batches of one."""
    with torch.no_grad():
        return torch.cat([method(image[None]) for image in golden.tensors["image"]])


# ------------------------------------------------------------------ SOT-GLP


def test_every_part_of_sotglp(of):
    golden, method, (logits, image, text) = of("sotglp")
    tensors, s = golden.tensors, method.logit_scale
    G, R = method.global_cosines(image, text), method.local_cosines(image, text)
    assert near(G, tensors["cosine/global"]) and near(R, tensors["cosine/local"])
    h = text.h.transpose(0, 1)
    assert near(h[:, :3], F.normalize(tensors["text/global"], dim=-1))
    assert near(h[:, 3:], F.normalize(tensors["text/local"], dim=-1))
    assert near(image.z[:, 0], F.normalize(tensors["image_features"], dim=-1))
    assert near(image.r[:, 0], F.normalize(tensors["patch_features"], dim=-1))
    values = method.image_encoder(tensors["image"]).values
    assert near(values[:, 0], tensors["frozen/patches"])
    at = tensors["support"].transpose(1, 2)[..., None].expand(-1, -1, -1, R.shape[-1])
    own = method.of_top_patches(R)
    assert torch.equal(own, R.transpose(1, 2).gather(2, at))
    assert near(sinkhorn_released(1 - own).plan, tensors["plan"])
    assert near(s * G.mean(-1), tensors["logits/global"])
    assert near(s * method.local_scores(image, text)[..., 0], tensors["logits/local"])
    assert near(logits.softmax(-1), tensors["probs_eval"])
    assert near(one_by_one(method, golden), tensors["single/logits_eval"])


def test_vv_attention_without_the_attention_of_the_first_block(of):
    golden, _, output = of("sotglp", CLEAN_VV=True)
    assert near(output.logits, golden.tensors["clean/logits_eval"])
    assert not near(output.logits, golden.tensors["logits_eval"])


def test_detection_with_sotglp(of):
    """The public code divides cosines by its temperature, 1000 in this file."""
    golden, method, output = of("sotglp")
    found = scores(method, output)
    assert found.keys() == {"mcm", "gl_mcm"}
    cosines = [c / golden.meta["config"]["ood_temp_scale"] for c in method.cosines(*output[1:])]
    mcm, local = (c.softmax(-1).amax(-1) for c in cosines)
    assert near(-mcm, golden.tensors["ood/mcm"])
    assert near(-local.amax(1), golden.tensors["ood/l_mcm"])
    assert near(-mcm - local.amax(1), golden.tensors["ood/gl_mcm"])


@pytest.mark.parametrize("how", ["random", "gram"])
def test_where_local_prompts_start(tiny_clip, how):
    method = build_method("SOTGLP", {"INIT_METHOD": how}, tiny_clip, ["forest", "sea"])
    start = method.local_prompts.detach()
    assert start.shape == (2, 4, 4, 128)
    if how == "random":
        bound = (6 / (4 * 128 * (4 + 2))) ** 0.5
        assert 0.95 * bound < start.abs().max() <= bound
    else:
        gram = torch.einsum("kntw,kmtw->ktnm", start, start)
        assert near(gram, 1e-6 * torch.eye(4).expand_as(gram), 1e-9)


def test_classes_of_sotglp(of, tiny_clip):
    golden, method, output = of("sotglp")
    names, node = golden.meta["classnames"], node_of(golden)
    few = [names[4], names[1]]
    other = build_method("SOTGLP", node, tiny_clip, few).eval()
    other.load_checkpoint(saved(method, names), few)
    wanted = method.text().h[:, [4, 1]]
    assert near(other.text().h, wanted)
    new = [names[0], "moon"]
    with pytest.raises(UserError, match="has parameters for each class of its training"):
        build_method("SOTGLP", node, tiny_clip, new).load_checkpoint(saved(method, names), new)
    with pytest.raises(UserError, match="is of 6 classes, but there are 2"):
        other.load_checkpoint(Saved.of({"state_dict": method.public_state_dict()}), few)


def test_a_public_file_lacks_what_was_not_learned(of):
    golden, method, output = of("sotglp", LEARN_LOCAL_PROJ=False)
    content = read_checkpoint(
        str(GOLDEN / "sotglp_checkpoint" / "sotglp_eurosat_vit_b16_seed1.ckpt")
    )
    (mapped,) = (key for key in content["state_dict"] if key.startswith("local_proj"))
    del content["state_dict"][mapped]
    torch.nn.init.eye_(method.local_proj["linear"].weight)
    method.load_checkpoint(method.read_public({"*.ckpt": content}), golden.meta["classnames"])
    assert torch.equal(method.local_proj["linear"].weight, torch.eye(128))
    assert not near(method(golden.tensors["image"]), output.logits)


# ------------------------------------------------------------------ PLOT++


@pytest.mark.parametrize("name", PLOTPP)
def test_every_part_of_plotpp(of, name):
    golden, method, (logits, image, text) = of(name)
    tensors = golden.tensors
    assert near(image.raw, tensors["image_features"]) or near(image.z, tensors["image_features"])
    h = tensors["text_features"].transpose(0, 1)
    assert near(text.raw, h) or near(text.h, h)
    S = torch.einsum("bmd,nkd->bkmn", image.z, text.h)
    assert near(sinkhorn_released(1 - S).plan, tensors["plan"])
    parts = []
    for weight in (0, 1):
        method.pooled.fill_(weight)
        parts.append(method.logits(image, text))
    assert near(parts[0], tensors["logits/transport"])
    assert near(parts[1] - parts[0], tensors["logits/pool"])
    method.pooled.fill_(golden.meta["config"]["TRADE_OFF"])
    assert near(one_by_one(method, golden), tensors["single/logits_eval"])


@pytest.mark.parametrize("name", PLOTPP)
def test_words_in_front_of_the_class_name(of, name):
    golden, method, _ = of(name)
    aligned = of(name, ALIGNED=True)[2].logits
    assert near(aligned, golden.tensors["aligned/logits_eval"])
    assert not near(aligned, golden.tensors["logits_eval"])
    decode = method.text_encoder.tokenizer.decode
    forest = [s[1] for s in method.text_encoder.sentences]
    after = [decode(s.ids[1 + len(s.slots) : s.eos]).strip() for s in forest]
    kept = {"plotpp": ["forest .", "forest .", "of forest .", "a forest ."],
            "plotpp_vision": ["forest .", "forest .", ".", "forest ."]}  # fmt: skip
    assert after == kept[name]


def test_plotpp_is_the_prompt_level_of_align(of, tiny_clip):
    """With the iteration that ALIGN's authors released, the difference is 0."""
    golden, method, (logits, image, text) = of("plotpp")
    names = golden.meta["classnames"]
    node = {"HIERARCHICAL": False, "TEXT_PROMPT_DEPTH": 1}
    align = build_method("MMP", node, tiny_clip, names)
    assert align.point[:3] == (*method.point[:2], 0)
    assert torch.equal(align.logits(image, text), logits)
    node = {"BETA": 0.0, "DEPTH": 1, "SINKHORN_TOL": 1e-7, "SINKHORN_MAX_ITER": 1000}
    converged = build_method("ALIGN", node, tiny_clip, names).logits(image, text)
    assert 0 < (converged - logits).abs().max() < 0.01 * method.logit_scale


def test_the_whole_model_of_plotpp(of, tiny_clip, tmp_path):
    """Its checkpoints hold the encoders, too; ours have what its code reads into its own model."""
    golden, method, output = of("plotpp")
    visual = {f"image_encoder.{key}": x for key, x in tiny_clip.visual.state_dict().items()}
    text = {
        f"text_encoder.{key}": x
        for key, x in tiny_clip.state_dict().items()
        if key.startswith(("transformer.", "ln_final.", "positional_", "text_projection"))
    }
    more = {"prompt_learner.token_prefix": torch.zeros(24, 1, 128), "logit_scale": torch.ones(())}
    more["prompt_learner.token_suffix"] = torch.zeros(24, 71, 128)
    whole = {**golden.params, **visual, **text, **more}
    for p in method.learned().values():
        p.data.zero_()
    method.load_checkpoint(Saved.of({"state_dict": whole, "epoch": 50}), golden.meta["classnames"])
    assert torch.equal(method(golden.tensors["image"]), output.logits)
    state = method.public_state_dict()
    assert state.keys() == golden.params.keys() and state.keys() < whole.keys()


def checkpoint(folder, epoch):
    return torch.load(folder / "prompt_learner" / f"model.pth.tar-{epoch}", weights_only=True)


def test_the_stages_of_plotpp(tiny_clip, tmp_path, capsys):
    """The visual prompts with the pooled term, then all; each stage has its own schedule."""
    extra = ["TRAIN.CHECKPOINT_FREQ", "1", "TRAINER.PLOTPP.M", "2", "TRAIN.PRINT_FREQ", "1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(tmp_path, "PLOTPP", whole, 4, extra=extra) == 0
    rates = [float(rate) for rate in re.findall(r" lr (\S+)", capsys.readouterr().out)]
    cosine = [0.005 * (1 + cos(pi * step / 8)) for step in range(1, 9)]
    assert rates == pytest.approx(cosine * 2, rel=1e-3, abs=1e-9)
    found = [checkpoint(whole, epoch) for epoch in (1, 2, 4)]
    ctx, vision = ([one["state_dict"][f"prompt_learner.{name}"] for one in found]
                   for name in ("ctx", "ctx_vision"))  # fmt: skip
    words = build_method("PLOTPP", {}, tiny_clip, ["sea"]).prompt_learner.ctx
    assert torch.equal(words, ctx[1]) and not torch.equal(ctx[1], ctx[2])
    assert not torch.equal(vision[0], vision[1]) and not torch.equal(vision[1], vision[2])
    assert [float(one["method"]["pooled"]) for one in found] == [1, 1, 0]
    alone = ["TRAINER.PLOTPP.MODEL_UPD", "vision", "TRAINER.PLOTPP.TRADE_OFF", "True"]
    assert run(tmp_path, "PLOTPP", parts / "vision", 2, extra=[*extra, *alone]) == 0
    file = parts / "vision" / "prompt_learner" / "model.pth.tar-2"
    alone = ["TRAINER.PLOTPP.MODEL_UPD", "joint", "MODEL.INIT_WEIGHTS", str(file)]
    still = ["OPTIM.LR", "0.0"]
    assert run(tmp_path, "PLOTPP", parts / "joint", 2, extra=[*extra, *alone, *still]) == 0
    of_vision = checkpoint(parts / "vision", 2)["state_dict"]
    assert torch.equal(of_vision["prompt_learner.ctx"], words)
    joint = checkpoint(parts / "joint", 2)["state_dict"]
    assert all(torch.equal(joint[key], value) for key, value in of_vision.items())
