"""Methods for several labels an image: parity with published code, and what only they refuse."""

import json
from types import SimpleNamespace

import pytest
import torch
from golden_files import build_several, near, own_name, read
from paths import GOLDEN

from trainers.prompting import UserError, build_method
from trainers.prompting.building.rebuild import for_classes
from trainers.prompting.losses import asymmetric
from trainers.prompting.methods import ram
from trainers.prompting.methods.sparc import choose_compounds, fuse, join_names, standardise
from trainers.prompting.trainer.checks import check_known


def check_step(golden, method):
    """Check logits, loss and gradients of a step."""
    tensors, own = golden.tensors, method.train().public_parameters()
    batch = method.batch(tensors["image"].float(), tensors["label"])
    output = method.output(batch.images)
    terms = method.terms(output, batch)
    assert near(terms["loss"], tensors["loss"])
    method.backward(terms)
    grads = golden.part("grad/")
    assert grads.keys() == own.keys()
    for name, value in grads.items():
        assert (own[name].grad - value).norm() < 1e-3 * value.norm(), name
    return output


@pytest.mark.parametrize("name", ["ml_dualcoop", "ml_dualcoop_dassl"])
def test_dualcoop(name):
    golden, method, _ = build_several(name)
    assert {*method.public_state_dict()} == golden.params.keys()
    output = check_step(golden, method)
    assert near(output.logits, golden.tensors["logits"])
    with torch.no_grad():
        assert near(method.eval()(golden.tensors["image"].float()), golden.tensors["logits"])
    logits, labels = golden.tensors["logits"], golden.tensors["label"]
    for setting, value in golden.part("asl/").items():
        gamma_neg, gamma_pos, clip = (float(x.strip("negposcli")) for x in setting.split("_"))
        found = asymmetric(logits, labels, gamma_neg, gamma_pos, clip).sum()
        assert torch.allclose(found, value, rtol=1e-5), setting


def test_taidpt_is_evaluated():
    golden, method, _ = build_several("ml_taidpt")
    with torch.no_grad():
        output = method.eval().predict(golden.tensors["image"].float())
        parts = method.parts(*output[1:])
    assert near(output.logits, golden.tensors["logits"])
    for name, logits in zip(("global", "local"), parts, strict=True):
        assert near(logits, golden.tensors[f"logits_{name}"])


def test_sparc(tiny_clip):
    golden = read(GOLDEN / "labels" / "ml_sparc.safetensors")
    a, b, c = (
        golden.tensors[f"cosines/{n}"] for n in ("single_ensemble", "single_simple", "compound")
    )
    scores = fuse(a, b, c, golden.tensors["matches"])
    own = standardise(standardise(a, 1), 0)
    assert near(own, golden.tensors["single_normalised"])
    assert near(scores, golden.tensors["logits"]) and near(
        2 * scores - own, golden.tensors["fused"]
    )
    method = built("SPARC", tiny_clip)
    assert method.compounds.tolist() == [[0, 1, -1], [0, 2, -1], [1, 2, -1]]
    alone, together = method.predict(IMAGES[:1]).logits, method.predict(IMAGES).logits
    assert together.isfinite().all() and not torch.allclose(alone[0], together[0])
    other = build_method("SPARC", {}, tiny_clip, NAMES, several=True)
    other.load_own_state(method.own_state())
    assert torch.equal(other.compounds, method.compounds)


@pytest.mark.parametrize("counts, wanted", [
    ({(0, 1): 6, (0,): 94}, [(0, 1, -1)]),
    ({(0, 1): 5, (0,): 95}, []),  # 0.05 of those with the first, and all of the second
    ({(0, 1, 2): 1, (0, 1): 19, (1, 3): 2}, [(0, 1, -1), (1, 3, -1), (0, 1, 2)]),
])  # fmt: skip
def test_sentences_of_sparc_follow_the_labels(counts, wanted):
    rows = [[k in classes for k in range(4)] for classes, n in counts.items() for _ in range(n)]
    assert choose_compounds(torch.tensor(rows)) == wanted
    assert join_names(["A", "B", "C"]) == "A, B, and C"


def solve_whole_batch(C, rows, columns, reg, *_, **__):
    K, u, v = (-C / reg).exp(), torch.ones_like(rows), torch.ones_like(C[:, 0])
    for _ in range(100):
        before, u = u, rows / (K @ v[..., None])[..., 0]
        v = 1 / K.shape[2] / (K.mT @ u[..., None])[..., 0]
        if ((u - before).abs().mean(1) < 1e-3).all():
            break
    return SimpleNamespace(plan=u[..., None] * K * v[:, None])


def test_ram(monkeypatch):
    golden, method, _ = build_several("ml_ram")
    published = {"adapters.": 5e-6, "tokens.": 1e-3}
    assert {name: 5e-5 * rate for name, rate in method.rates.items()} == pytest.approx(published)
    tensors, images = golden.tensors, golden.tensors["image"].float()
    output = check_step(golden, method)
    buffers = dict(method.named_buffers())
    for place, value in golden.part("buffer_after/").items():
        assert near(buffers[own_name(place)], value), place

    def local():
        return method.scores(*output[1:], tensors["label"], images)[1]

    assert near(method.scores(*output[1:])[0], tensors["logits_global"])
    assert near(local(), tensors["logits_local"], 4e-4)
    with monkeypatch.context() as patch:  # the public solver stops for all images together
        patch.setattr(ram, "sinkhorn_released", solve_whole_batch)
        assert near(local(), tensors["logits_local"])
    assert near(method.knowledge(images), tensors["ot/teacher"], 1e-5)
    with torch.no_grad():
        score = method.eval()(images).exp()
        each = torch.cat([method(image[None]) for image in images])
    assert near(score, tensors["score_eval_one_by_one"], 1e-5)
    assert torch.allclose(score.log(), each, atol=1e-5)  # it does not depend on the batch
    assert near(score, tensors["score_eval"], 1e-4)  # whose solver stops for all images
    names = json.loads(golden.meta["unseen_classnames"])
    for others, wanted in ((names, "unseen"), (golden.meta["classnames"] + names, "all")):
        other = for_classes(
            method, method.teacher.clip_model, golden.meta["classnames"], others, ""
        )
        with torch.no_grad():
            assert near(other(images).exp(), tensors[f"score_{wanted}"], 1e-4)


def test_a_mean_over_steps_is_evaluated_and_may_begin_anew(tiny_clip):
    node = {"DEPTH_VISION": [1], "DEPTH_TEXT": [1], "EMA": 0.5}
    names = ["cat", "dog"]  # as many as the adapters have streams
    for restart in (False, True):
        method = build_method("RAM", node | {"EMA_RESTART": restart}, tiny_clip, names)
        with torch.no_grad():
            for epoch, value in enumerate((0.0, 1.0, 3.0), 1):
                method.temperature.fill_(value)
                method.adapters["1"].conv_adapter_layers1[1].running_mean.fill_(value)
                method.begin_stage(0) if epoch == 1 else method.after_step()
                method.after_epoch(epoch, 3)
        wanted = 2.0 if restart else 1.75
        assert method.temperature == wanted
        assert (method.adapters["1"].conv_adapter_layers1[1].running_mean == wanted).all()
        other = for_classes(method, tiny_clip, names, ["owl", "fox"], "")
        assert other.temperature == wanted


@pytest.mark.parametrize("name, labels, why", [
    ("CoOp", torch.tensor([[2, 0, 0]], dtype=torch.int8), "1, 0 or -1 .unknown., and are others"),
    ("CoOp", torch.tensor([[1, 0, 0]]), "Labels are torch.int64 of the shape"),
    ("RAM", torch.tensor([[1, 0, -1]], dtype=torch.int8), "RAM needs all labels, and some are -1"),
])  # fmt: skip
def test_labels_that_are_none(tiny_clip, name, labels, why):
    node = {"DEPTH_VISION": [1], "DEPTH_TEXT": [1]} if name == "RAM" else {}
    with pytest.raises(UserError, match=why):
        build_method(name, node, tiny_clip, NAMES, several=True).losses(
            torch.zeros(1, 3, 32, 32), labels
        )


def test_labels_of_ram_must_be_known(tiny_clip):
    method = build_method(
        "RAM", {"DEPTH_VISION": [1], "DEPTH_TEXT": [1]}, tiny_clip, NAMES, several=True
    )
    data = SimpleNamespace(train_x=[SimpleNamespace(label=(1, 0, -1))], classnames=NAMES)
    with pytest.raises(UserError, match="RAM needs all labels of training images, but of 1 images"):
        check_known(method, data)


def test_one_label_is_a_label_of_no_other_class(tiny_clip):
    labels = torch.tensor([0, 2])
    several = torch.nn.functional.one_hot(labels, 3).to(torch.int8)
    images, losses = torch.randn(2, 3, 32, 32), []
    for given, many in ((labels, False), (several, True)):
        torch.manual_seed(0)
        method = build_method("DualCoOp", {}, tiny_clip, ["cat", "dog", "owl"], several=many)
        losses.append(method.losses(images, given)["loss"])
    assert losses[0] == losses[1]


# ------------------------------------------------------------------ methods of one label

NAMES = ["cat", "dog", "owl"]
SMALL = {"MaPLe": {"PROMPT_DEPTH": 2}, "ALIGN": {"M": 2, "N": 2, "DEPTH": 2}, "PLOT": {"N": 2}}
OF_IMAGES = "LinearProbe", "SPARC", "TipAdapter"
LABELS = torch.tensor(
    [[1, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=torch.int8
)
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(name, clip_model, several=True, labels=LABELS, **node):
    support = {"images": IMAGES, "labels": labels} if name in OF_IMAGES else None
    more = {"support": support, "several": several}
    torch.manual_seed(0)
    return build_method(name, SMALL.get(name, {}) | node, clip_model, NAMES, **more)


@pytest.mark.parametrize("name", ["CoOp", "MaPLe", "PLOT", "ALIGN"])
def test_a_bias_starts_at_minus_the_mean_logit(tiny_clip, name):
    method, one = (built(name, tiny_clip, several).train() for several in (True, False))
    assert {*method.learned()} - {*one.learned()} == {"bias"}
    assert torch.equal(method(IMAGES), one(IMAGES))
    method.start_bias(method(IMAGES))
    assert torch.allclose(method.bias, -one(IMAGES).mean())
    assert torch.allclose(method(IMAGES), one(IMAGES) + method.bias)
    method.backward(method.losses(IMAGES, LABELS))
    assert method.bias.grad.abs() > 0
    with pytest.raises(UserError, match="The checkpoint lacks 'bias'"):
        method.load_public_state_dict(one.public_state_dict())


def test_the_linear_probe_has_a_regression_for_each_class(tiny_clip):
    """At its minimum no gradient is left, and unknown labels are as images that are not there."""
    labels = LABELS.clone()
    labels[2, 0] = labels[0, 1] = -1
    method = built("LinearProbe", tiny_clip, labels=labels, SEARCH_HP=False, C=3.0)
    z = torch.nn.functional.normalize(method.clip_features(IMAGES), dim=-1)
    W, b = method.classifier.weight.detach(), method.classifier.bias.detach()
    assert torch.allclose(method(IMAGES), z @ W.T + b)
    for k in range(3):
        known = labels[:, k] >= 0
        apart = (z[known] @ W[k] + b[k]).sigmoid() - labels[known, k]
        assert (3.0 * apart @ z[known] + W[k]).abs().max() < 1e-4
        assert apart.sum().abs() < 1e-4


def test_the_search_of_the_linear_probe_has_the_least_cross_entropy(tiny_clip, capsys):
    method = built("LinearProbe", tiny_clip, SEARCH_HP=True)
    method.take_validation(method.clip_features(IMAGES), LABELS)
    assert "Search: C 1e+07 has the cross-entropy 0.0000 of known labels" in capsys.readouterr().out


def test_the_cache_of_tip_adapter_has_all_labels_of_an_image(tiny_clip):
    node = {"AUGMENT_EPOCH": 1}
    values = built("TipAdapter", tiny_clip, **node).adapter.values
    sizes = LABELS.sum(0)
    assert torch.allclose(values, LABELS * (sizes.float().mean() / sizes))
    labels = LABELS.clone().index_fill_(0, torch.tensor([0]), -1)
    with pytest.raises(UserError, match="support of TipAdapter .* whole numbers from 0 to 1"):
        built("TipAdapter", tiny_clip, labels=labels, **node)
    with pytest.raises(UserError, match="SEARCH_HP chooses by the accuracy of one label"):
        built("TipAdapter", tiny_clip, SEARCH_HP=True)
