"""Adapters and caches on features (Tip-Adapter, CLIP-Adapter, CLAP), beyond test_golden.py."""

import numpy as np
import pytest
import tiny
import torch
from paths import GOLDEN
from test_golden import check_step, read

from trainers.prompting import UserError, build_method, load_run
from trainers.prompting.method import METHODS
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.storage.checkpoints import read_checkpoint
from trainers.prompting.storage.saved import Saved
from trainers.prompting.trainer.config import read_node

FILES = {
    "TipAdapter": "tip_adapter_f",
    "TipAdapterF": "tip_adapter_f",
    "CLIPAdapter": "clip_adapter",
    "CLAP": "clap",
}


def made(name, clip_model, dataset=None, support=True, **node):
    """Return a method with the settings of its golden file, untrained, and the file."""
    golden = read(GOLDEN / f"{FILES[name]}.safetensors")
    meta = golden.meta
    config = {key.upper(): value for key, value in meta["config"].items()} | node
    if name.startswith("TipAdapter"):
        config = {"SCALE": 100.0} | config  # a constant of the public code
    place = clip_model, meta["classnames"], dataset or meta["dataset"]
    return build_method(name, config, *place, golden.support if support else None), golden


def load(method, golden):
    method.load_public_state_dict(golden.params)
    return method.eval()


def near(found, expected, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=rtol)


# ------------------------------------------------------------------ Tip-Adapter


def test_the_cache_and_its_logits(tiny_clip):
    method, golden = made("TipAdapter", tiny_clip)
    cache, tensors, images = method.adapter, golden.tensors, golden.tensors["image"]
    near(cache.keys.T, tensors["cache/keys"])
    assert torch.equal(cache.values, tensors["cache/values"])
    near(method.eval()(images), tensors["tip/logits"], atol=1e-4)
    near(method(tensors["val/image"]), tensors["tip/val_logits"], atol=1e-4)
    assert not list(method.learned().values())
    cache.alpha.fill_(0)
    near(method(images), tensors["zeroshot/logits"], atol=1e-4)
    near(method.text().h[0], tensors["frozen/text_features"])


@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF"])
def test_alpha_and_beta_are_searched_on_validation_images(tiny_clip, name, capsys):
    method, golden = made(name, tiny_clip)
    plain, _ = made(name, tiny_clip, SEARCH_HP=False)
    assert method.searches and not plain.searches
    tensors = golden.tensors
    trained = name == "TipAdapterF"
    if trained:
        near(method.adapter.weight, golden.tensors["init/adapter.weight"])
        load(method, golden)
    features = method.clip_features(tensors["val/image"])
    method.take_validation(features, tensors["val/label"])
    beta, alpha = tensors["search/tip_f" if trained else "search/tip"].tolist()
    assert float(method.adapter.beta) == pytest.approx(beta)
    assert float(method.adapter.alpha) == pytest.approx(alpha)
    assert "Search: beta" in capsys.readouterr().out
    expected = tensors["logits_searched" if trained else "tip/logits_searched"]
    near(method.eval()(tensors["image"]), expected, atol=1e-4)
    other, _ = made(name, tiny_clip, support=False)  # what was chosen is loaded
    state = {"state_dict": method.public_state_dict(), "method": method.own_state()}
    state |= {"trainer": name, "classnames": golden.meta["classnames"]}
    other.load_checkpoint(Saved.of(state), golden.meta["classnames"])
    assert torch.equal(other.eval()(tensors["image"]), method(tensors["image"]))


def test_steps_of_the_keys(tiny_clip):
    method, golden = made("TipAdapterF", tiny_clip)
    load(method, golden)
    tensors = golden.tensors
    optimizer = torch.optim.AdamW(method.learned().values(), lr=0.001, eps=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    for expected in tensors["steps/logits"]:
        terms = method.train().losses(tensors["image"], tensors["label"])
        optimizer.zero_grad()
        method.backward(terms)
        optimizer.step()
        schedule.step()
        near(method.eval()(tensors["image"]), expected, atol=1e-4)


def test_several_sentences_of_imagenet(tiny_clip):
    method, golden = made("TipAdapter", tiny_clip, dataset="ImageNetV2")
    near(method.text().h[0], golden.tensors["ensemble/text_features"])
    clap, golden = made("CLAP", tiny_clip, dataset="ImageNet", CONSTRAINT="none")
    clap.text()
    near(clap.adapter.prototypes, golden.tensors["imagenet/base_text_features"])


# ------------------------------------------------------------------ CLIP-Adapter


def test_the_adapter(tiny_clip):
    method, golden = made("CLIPAdapter", tiny_clip, support=False)
    shapes = {name: value.shape for name, value in method.public_state_dict().items()}
    assert shapes == {name: value.shape for name, value in golden.part("init/").items()}
    load(method, golden)
    z = golden.tensors["frozen/image_features"]
    near(method.adapter.fc(method.clip_features(golden.tensors["image"])),
         golden.tensors["adapter_output"])  # fmt: skip
    plain, _ = made("CLIPAdapter", tiny_clip, support=False, RATIO=0)
    near(plain.output(golden.tensors["image"]).image.z[:, 0], z)


# ------------------------------------------------------------------ CLAP


@pytest.mark.parametrize("weights", ["", "_corrected", "_constant", "_balanced"])
def test_weights_of_the_constraint(tiny_clip, weights):
    method, golden = made("CLAP", tiny_clip, CONSTRAINT="l2" + weights)
    near(method.adapter.alpha, golden.tensors["alpha/l2" + weights])
    near(method.teacher.raw, golden.tensors["frozen/base_text_features"])
    method.text()
    near(method.adapter.prototypes, golden.tensors["init/adapter.prototypes"])


@pytest.mark.parametrize(("constraint", "block"), [("cosine", "cosine/"), ("none", "zslp/")])
def test_other_constraints(tiny_clip, constraint, block):
    method, golden = made("CLAP", tiny_clip, CONSTRAINT=constraint)
    check_step(load(method, golden), golden, block)


def test_adaptive_weights(tiny_clip):
    method, golden = made("CLAP", tiny_clip, CONSTRAINT="l2_adaptative")
    load(method, golden)
    for epoch in (1, 2):
        method.after_epoch(epoch, 2)
    near(method.adapter.alpha, golden.tensors["adaptative/alpha_after_2"])


def test_steps_on_features_are_those_on_images(tiny_clip):
    method, golden = made("CLAP", tiny_clip)
    load(method, golden).train()
    images, labels = golden.tensors["image"], golden.tensors["label"]
    x = method.clip_features(images)
    near(x, golden.tensors["image_features"], atol=1e-4)
    for terms in (method.losses(images, labels), method.losses(x, labels)):
        near(terms["loss"], golden.tensors["loss"][0])


@pytest.mark.parametrize(
    ("name", "file"),
    [("CLAP", "adapter/model.pth.tar-300"), ("CLIPAdapter", "clip_adapter/model.pth.tar-200")],
)
def test_public_checkpoints(tiny_clip, name, file):
    method, golden = made(name, tiny_clip, support=False)
    checkpoint = read_checkpoint(GOLDEN / f"{FILES[name]}_checkpoint" / file)
    method.load_checkpoint(Saved.of(checkpoint), golden.meta["classnames"])
    near(method.eval()(golden.tensors["image"]), golden.tensors["logits_eval"], atol=1e-4)
    if name == "CLAP":
        few = golden.meta["classnames"][:4]
        other = build_method(name, {}, tiny_clip, few)
        with pytest.raises(UserError, match="has prototypes of 6 classes, but there are 4"):
            other.load_checkpoint(Saved.of(checkpoint), few)


@pytest.mark.parametrize("name", ["TipAdapter", "TipAdapterF", "CLAP"])
def test_some_of_the_classes(tiny_clip, name):
    """Some variants of ImageNet have 200 of its classes."""
    method, golden = made(name, tiny_clip)
    names, images = golden.meta["classnames"], golden.tensors["image"]
    state = {"state_dict": method.public_state_dict(), "method": method.own_state()}
    state |= {"trainer": name, "classnames": names, "class_buffers": method.class_buffers}
    few = [names[4], names[1]]
    scale = {"SCALE": 100.0} if name.startswith("TipAdapter") else {}
    other = build_method(
        name, method.defaults | {"PREC": "fp32"} | scale, tiny_clip, few, "EuroSAT"
    )
    other.load_checkpoint(Saved.of(state), few)
    expected = method.eval()(images)[:, [4, 1]]
    near(other.eval()(images), expected, atol=1e-4)
    other.load_checkpoint(Saved.of(state | {"classnames": [*names[:3], names[1], *names[4:]]}), few)
    near(other(images), expected, atol=1e-4)
    assert all(len(few) in buffer.shape for key, buffer in other.own_state().items()
               if key.rpartition(".")[2] in ("values", "rho"))  # fmt: skip
    with pytest.raises(UserError, match="has parameters for each class of its training"):
        build_method(name, {}, tiny_clip, ["moon", names[1]]).load_checkpoint(
            Saved.of(state), ["moon", names[1]]
        )


def test_a_checkpoint_of_a_subclass_keeps_the_order_of_classes(tiny_clip):
    """Buffers of another method are not read, but each prototype stays with its class."""
    names = ["cat", "dog", "fish"]
    images = torch.randn(2, 3, 32, 32)
    trained = build_method("CLAP", {}, tiny_clip, names).eval()
    trained.start()
    trained.adapter.prototypes.data.normal_()
    checkpoint = {"state_dict": trained.public_state_dict(), "classnames": names,
                  "method": trained.own_state(), "trainer": "Derived"}  # fmt: skip
    other = build_method("CLAP", {}, tiny_clip, names[::-1]).eval()
    other.load_checkpoint(Saved.of(checkpoint), names[::-1])
    near(other(images).flip(1), trained(images), atol=1e-4)
    residuals = build_method("TaskRes", {}, tiny_clip, names)
    checkpoint |= {"state_dict": residuals.public_state_dict(), "method": residuals.own_state()}
    with pytest.raises(UserError, match="of another method and has no 'base_text_features'"):
        residuals.load_checkpoint(Saved.of(checkpoint), names)


# ------------------------------------------------------------------ bad input


BAD = [
    ("TipAdapter", "INIT_ALPHA", -1.0, "INIT_ALPHA is -1.0 but must be 0 or more"),
    ("TipAdapterF", "INIT_BETA", float("nan"), "INIT_BETA is nan but must be 0 or more"),
    ("TipAdapter", "AUGMENT_EPOCH", 0, "AUGMENT_EPOCH is 0: at least 1 is needed"),
    ("TipAdapter", "SEARCH_STEP", [200, 0], "SEARCH_STEP is .* but must be two numbers"),
    ("TipAdapter", "SEARCH_SCALE", [7], "SEARCH_SCALE is .* but must be two numbers"),
    ("TipAdapter", "SEARCH_SCALE", ["7", "3"], "but must be a list of numbers, such as"),
    ("CLIPAdapter", "RATIO", 1.5, "RATIO is 1.5 but must be from 0 to 1"),
    ("CLAP", "CONSTRAINT", "l3", "CONSTRAINT is 'l3' but must be one of none, l2, cosine"),
    ("CLAP", "CONSTRAINT", "l2_more", "The part of CONSTRAINT after _ is 'more' but must be one"),
    ("CLAP", "INIT", "TR", "INIT is 'TR' but must be one of ZS, RANDOM"),
    ("CLAP", "INIT", "RANDOM", "INIT is RANDOM but CONSTRAINT is l2, which keeps prototypes"),
    ("CLAP", "ENHANCED_BASE", "x", "ENHANCED_BASE is 'x' but must be one of none"),
    ("LinearProbe", "C", 0.0, "C is 0.0 but must be positive"),
    ("LinearProbe", "NUM_STEP", -1, "NUM_STEP is -1 but must be 0 or more"),
    ("LPPlusPlus", "FORM", "paper", "FORM is 'paper' but must be one of released, cleared"),
    ("LPPlusPlus", "TRAIN_EPOCH", 0, "TRAIN_EPOCH is 0: at least 1 is needed"),
    ("CLAP", "REPETITIONS", 0, "REPETITIONS is 0: at least 1 is needed"),
    ("CrossModal", "IMAGE_LAYER_IDX", 1, "IMAGE_LAYER_IDX must be 0: no layer of CLIP can be"),
    ("GDA", "FORM", "paper", "FORM is 'paper' but must be one of shrunk, base2new"),
    ("GDA", "NEIGHBORS", 1, "NEIGHBORS is 1: at least 2 are needed"),
    ("ProLIP", "LAMBDA", "1/M", r"LAMBDA is '1/M' but must be one of 1/N, 1/N\^2, a number"),
    ("ProLIP", "LAMBDA", "-1", "LAMBDA is -1.0 but must be 0 or more"),
    ("ProLIP", "AUG_VIEWS", 0, "AUG_VIEWS is 0: at least 1 is needed"),
    ("ProLIP", "SIDE", "both", "SIDE is 'both' but must be one of visual, text"),
    ("GalLoP", "TOPK", 5, "TOPK is 5 but must be a list of whole numbers, such as"),
    ("MMRL", "REP_LAYERS", [1.5], "but must be a list of whole numbers"),
    ("MMRL", "REP_LAYERS", ["a"], "REP_LAYERS is .* but must be a list of whole numbers"),
    ("GalLoP", "TOPK", ["a"], "TOPK is .* but must be a list of whole numbers"),
    ("MMRL", "N_REP_TOKENS", 100_000, "N_REP_TOKENS is 100000 but must be from 1 to 1,000"),
    ("MMRLpp", "BETA", 1.5, r"BETA is 1.5 but must be in \[0, 1\]"),
    ("MMRLpp", "RES_LORA_DIM", 0, "RES_LORA_DIM is 0 but must be from 1 to 10,000"),
    ("KgCoOp", "W", -1.0, "W is -1.0 but must be 0 or more"),
    ("CoPrompt", "W", float("nan"), "TRAINER.W is nan but must be 0 or more"),
    ("MMRL", "REG_WEIGHT", -1.0, "REG_WEIGHT is -1.0 but must be 0 or more"),
    ("PromptSRC", "TEXT_LOSS_WEIGHT", -1, "TEXT_LOSS_WEIGHT is -1 but must be 0 or more"),
    ("PromptSRC", "N_CTX_VISION", -1, "N_CTX_VISION is -1 but must be 0 or more"),
    ("IVLP", "PROMPT_DEPTH_VISION", -1, "PROMPT_DEPTH_VISION is -1 but must be 0 or more"),
    ("ProGrad", "T", 0.0, "LOSS.T is 0.0 but must be positive"),
    ("ProGrad", "LAMBDA", -1.0, "LOSS.LAMBDA is -1.0 but must be 0 or more"),
    ("PromptKD", "KD_WEIGHT", -1.0, "KD_WEIGHT is -1.0 but must be 0 or more"),
    ("CLIPLoRA", "ALPHA", 0.0, "ALPHA is 0.0 but must be positive"),
    ("MultiModalAdapter", "ADAPTER_DIM", 999_999, "ADAPTER_DIM is 999999 but must be from 1 to"),
    ("MultiModalAdapter", "ADAPTER_SCALE", float("inf"), "ADAPTER_SCALE is inf but must be"),
    ("MultiModalAdapter", "ADAPTER_START", 13, "ADAPTER_START is 13 and ADAPTER_END 12: give 0"),
    ("MultiModalAdapter", "ADAPTER_START", -1, "ADAPTER_START is -1 and ADAPTER_END 12: give 0"),
    ("LoCoOp", "TOPK", 0, "topk is 0: at least 1 is needed"),
    ("LoCoOp", "LAMBDA_VALUE", -1.0, "lambda_value is -1.0 but must be 0 or more"),
    ("CoOp", "N_CTX", 0, "N_CTX is 0: at least 1 is needed"),
    ("CoOp", "CTX_INIT", "a\tb", "CTX_INIT has 2 templates"),
    ("CTPT", "LAMBDA_TERM", -1.0, "LAMBDA_TERM is -1.0 but must be 0 or more"),
    ("TCP", "INSERT_BLOCK", 0, "INSERT_BLOCK is 0: at least 1 is needed"),
    ("GalLoP", "N_GLOBAL_PROMPTS", 999_999, "is 999999 but must be from 1 to 1,000"),
    ("TDA", "VIEWS", 999_999, "An image has 999,999 views: lower VIEWS, to 10,000 at most"),
    ("TPT", "BATCH_SIZE", 999_999, "An image has 999,999 views: lower BATCH_SIZE or SELECTION_P"),
    ("TipAdapter", "INIT_ALPHA", 1e300, r"INIT_ALPHA is 1e\+300 but must be a number, 3.4e\+38"),
    ("TipAdapter", "SEARCH_STEP", [1e9, 1e9], "1,000,000,000,000,000,000 pairs of beta and alpha"),
    ("ALIGN", "REGULARIZERS", "kg", "REGULARIZERS is 'kg' but must be a list of words"),
]


@pytest.mark.parametrize(("name", "key", "value", "sentence"), BAD)
def test_bad_settings_are_one_sentence(name, key, value, sentence):
    with pytest.raises(UserError, match=sentence):
        read_node(METHODS[name], {key: value})


def inherited():
    """Yield the cases of methods whose settings are based on those of a method in BAD."""
    for name, key, value, sentence in BAD:
        of = METHODS[name].Settings
        for other, kind in METHODS.items():
            if kind.Settings is not of and issubclass(kind.Settings, of):
                yield pytest.param(other, key, value, sentence, id=f"{other}, {key} {value}")


@pytest.mark.parametrize(("name", "key", "value", "sentence"), [*inherited()])
def test_settings_refuse_what_those_that_they_are_based_on_refuse(name, key, value, sentence):
    with pytest.raises(UserError, match=sentence):
        read_node(METHODS[name], {key: value})


def test_settings_at_a_bound_are_valid():
    read_node(METHODS["MultiModalAdapter"], {"ADAPTER_START": 12})
    read_node(METHODS["MultiModalAdapter"], {"ADAPTER_START": 0})
    read_node(METHODS["TipAdapter"], {"SEARCH_STEP": [1000, 1000]})
    with pytest.raises(UserError, match="which tries 1,001,000 pairs"):
        read_node(METHODS["TipAdapter"], {"SEARCH_STEP": [1001, 1000]})


@pytest.mark.parametrize(
    ("name", "node", "sentence"),
    [
        ("CoPrompt", {"SENTENCES": 5, "PROMPT_DEPTH": 2}, "SENTENCES is 5 but must be the path"),
        ("CoPrompt", {"SENTENCES": "a\0", "PROMPT_DEPTH": 2}, "no list or .json file .a.x00"),
        ("TaskRes", {"ENHANCED_BASE": "x" * 999}, "ENHANCED_BASE is 'x*', which is not a file"),
        ("PromptKD", {"TEACHER": "x" * 999, "PROMPT_DEPTH_VISION": 2}, "TEACHER is 'x*', where"),
        ("VPT", {"N_CTX_VISION": 5_000, "PROMPT_DEPTH_VISION": 2}, "5000: 1,000 at most are"),
    ],
)
def test_files_and_sizes_of_any_kind_are_one_sentence(tiny_clip, name, node, sentence):
    with pytest.raises(UserError, match=sentence):
        images = torch.zeros(2, 3, 32, 32)
        build_method(name, node, tiny_clip, ["cat", "dog"]).losses([images] * 2, torch.arange(2))


def test_adapters_and_supports_that_do_not_fit(tiny_clip):
    with pytest.raises(UserError, match="REDUCTION is 65 but must be from 1 to 64, the width"):
        build_method("CLIPAdapter", {"REDUCTION": 65}, tiny_clip, ["cat", "dog"])
    support = {"images": torch.zeros(2, 3, 32, 32), "labels": torch.zeros(2, dtype=torch.long)}
    with pytest.raises(UserError, match="The class 'dog' has no training image, but CLAP"):
        build_method("CLAP", {}, tiny_clip, ["cat", "dog"], support=support)
    with pytest.raises(UserError, match="CONSTRAINT l2.* needs the training images: pass them to"):
        build_method("CLAP", {}, tiny_clip, ["cat", "dog"]).losses(*support.values())
    empty = build_method("TipAdapter", {}, tiny_clip, ["cat", "dog"]).eval()
    with pytest.raises(UserError, match="The cache of training images is empty"):
        empty(torch.zeros(1, 3, 32, 32))


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("TipAdapter", ["TRAINER.TIP_ADAPTER.SEARCH_HP", "True"]),
        ("TipAdapterF", ["TRAINER.TIP_ADAPTER.SEARCH_HP", "True"]),
        ("CLAP", ["TRAINER.ADAPTER.CONSTRAINT", "l2_adaptative"]),
        ("CLAP", ["TRAINER.ADAPTER.INIT", "RANDOM", "TRAINER.ADAPTER.CONSTRAINT", "none"]),
        ("GDA", ["TRAINER.GDA.FORM", "base2new"]),
        ("CrossModal", ["TRAINER.CROSS_MODAL.ITERS", "9"]),
        pytest.param("LinearProbe", [], marks=pytest.mark.slow),
        pytest.param("LPPlusPlus", [], marks=pytest.mark.slow),
        pytest.param("ProLIP", ["TRAINER.PROLIP.AUG_VIEWS", "2"], marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_repeats_the_result_of_the_run(tmp_path, name, keys):
    data, ran, again = (tmp_path / name for name in ("data", "ran", "again"))
    tiny.write_halves(data)
    extra = [*tiny.OF_HALVES, "all", "DATASET.NUM_SHOTS", "2", *keys]
    assert tiny.run(data, name, ran, 2, extra=extra) == 0
    flags = ("--eval-only", "--model-dir", str(ran))
    assert tiny.run(data, name, again, 2, *flags, extra=extra) == 0
    said = [read_predictions(folder) for folder in (ran, again)]
    for key in said[0]:
        np.testing.assert_array_equal(*(found[key] for found in said), err_msg=key)
    run = load_run(ran)
    assert run.classnames == tiny.HALVES and run.model.num_classes == 5
    assert run.model(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_as_many_likeliest_classes_as_there_are_select_no_patch(tiny_clip):
    build_method("LoCoOp", {"TOPK": 2}, tiny_clip, ["cat", "dog", "owl"]).begin_stage(0)
    method = build_method("LoCoOp", {"TOPK": 3}, tiny_clip, ["cat", "dog", "owl"])
    with pytest.raises(UserError, match="topk is 3 of 3 classes, .* no patch is selected"):
        method.begin_stage(0)
