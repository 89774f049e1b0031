"""Half precision: as close to float32 as OpenAI's modules, and every method in float16.

In full precision, the solver does not use the precision of the program around it.

The file is long because one step and evaluation serve all precisions and switches.
"""

import copy
import json
from copy import deepcopy
from functools import partial

import pytest
import tiny
import torch
from cases import slow_but
from half import CPU, compare, errors, exact, step, worse
from models import clip_of, images, model_of, settings, support_of
from torch import nn

from trainers.prompting import Teacher, sinkhorn
from trainers.prompting.building.support import encode_batches
from trainers.prompting.capabilities.at_test_time import count_views, reset
from trainers.prompting.capabilities.on_support import OneView, OnSupport, trains_on_support
from trainers.prompting.capabilities.per_class import make_room
from trainers.prompting.capabilities.staged import begin_stage
from trainers.prompting.capabilities.unlabelled import Unlabelled
from trainers.prompting.full_precision import full_precision
from trainers.prompting.method import METHODS, Batch
from trainers.prompting.running import precision as running
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step
from trainers.prompting.trainer import trainer

QUICK = [("ALIGN", "bf16", "start")]
SLOW = [
    (setting, kind, loud)
    for setting in ("ALIGN", "MaPLe")
    for kind in ("fp16", "amp")
    for loud in ("quiet", "start", "blocks", "gains")
    if setting == "ALIGN" or kind == "fp16" or loud in ("quiet", "start")  # the blocks are ALIGN's
]
SAYS = "this processor computes"
FALLS = "PREC fp16 needs a GPU: on the CPU this run computes in fp32"
DRAWS = {"quiet": 12, "start": 12, "blocks": 24, "gains": 24}


@pytest.mark.parametrize("setting", ["ALIGN", "MaPLe"])
def test_openais_modules_compute_the_same_in_float32(setting):
    stock = step(setting, "fp32", CPU, "quiet", 0, stock=True)
    assert max(errors(stock, exact(setting, "quiet", 0))) < 1e-4


@pytest.mark.parametrize(("setting", "kind", "loud"), QUICK)
def test_a_few(setting, kind, loud):
    assert not worse(compare(setting, kind, CPU, loud, draws=5))


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "kind", "loud"), SLOW)
def test_all(setting, kind, loud):
    assert not worse(compare(setting, kind, CPU, loud, DRAWS[loud]))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_bf16_has_no_loss_scale_on_any_device(device):
    how = Precision("bf16", torch.device(device))
    assert how.half == torch.bfloat16 and not how.scaler.is_enabled()


def test_bf16_on_the_cpu_is_amp(tiny_clip):
    found = []
    for precision in ("bf16", "amp", "fp32"):
        clip_model, how = copy.deepcopy(tiny_clip), Precision(precision, CPU)
        torch.manual_seed(0)
        method = model_of(clip_model, "ALIGN", settings("ALIGN")).train()
        how.place(method, clip_model)
        optimizer = torch.optim.SGD(method.learned().values(), lr=0.1)
        batch = Batch([images()], torch.tensor([0, 1, 2]))
        output, _ = training_step(method, batch, optimizer, how)
        found.append([output.logits, *method.learned().values()])
    bf16, amp, fp32 = found
    assert all(map(torch.equal, bf16, amp))
    assert not torch.equal(bf16[0], fp32[0])


@pytest.mark.parametrize(
    ("name", "factor", "said"),
    [
        ("fp16", 2.94, [FALLS, f"{SAYS} 2.9 times as fast in bfloat16: set PREC bf16"]),
        ("fp16", 1.19, [FALLS]),
        ("fp16", 0.25, [FALLS]),
        ("bf16", 0.25, [f"{SAYS} 4.0 times as fast in float32: set PREC fp32"]),
        ("amp", 0.8, [f"{SAYS} 1.2 times as fast in float32: set PREC fp32"]),
        ("amp", 0.9, []),
        ("bf16", 2.94, []),
    ],
)
def test_a_faster_precision_of_the_cpu_is_said(monkeypatch, name, factor, said):
    monkeypatch.setattr(running, "bfloat16_factor", lambda clip_model: factor)
    assert Precision(name, CPU).note(nn.Identity()).splitlines() == said
    assert not Precision("bf16", torch.device("cuda")).note(nn.Identity())


def test_products_are_timed_only_where_their_factor_can_be_said(monkeypatch, tiny_clip):
    monkeypatch.setattr(running.F, "linear", None)
    for closed in (tiny_clip, nn.Identity()):  # too small, as of a file of features
        assert running.bfloat16_factor(closed) == 1
    large = nn.Linear(1024, 1024)
    for name, device in (("fp32", "cpu"), ("bf16", "cuda")):
        assert not Precision(name, torch.device(device)).note(large)
    with pytest.raises(TypeError):
        Precision("bf16", CPU).note(large)


def test_the_factor_is_that_of_the_fastest_products(monkeypatch):
    """By a clock that a product in float32 moves on by 3 and one in bfloat16 by 2, or more."""
    now, linear, seen = [0.0], running.F.linear, []
    clip_model = nn.Sequential(nn.Embedding(5000, 512), nn.Linear(8, 8), nn.Linear(512, 2048))
    state = torch.get_rng_state()
    monkeypatch.setattr(running.time, "perf_counter", lambda: now[0])

    def product(x, weight):
        seen.append((x.dtype, weight.shape))
        now[0] += {torch.float32: 3.0, torch.bfloat16: 2.0}[x.dtype] * (5 if len(seen) < 5 else 1)
        return linear(x, weight)

    monkeypatch.setattr(running.F, "linear", product)
    assert running.bfloat16_factor(clip_model) == 1.5
    assert set(seen) == {(t, (2048, 512)) for t in (torch.float32, torch.bfloat16)}
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["GalLoP", "LoCoOp", "MMRL"])
def test_losses_are_not_rounded_by_amp(tiny_clip, name):
    """They multiply features themselves: autocast would do that in half precision."""
    method = model_of(tiny_clip, name, settings(name)).train()
    batch = Batch([images()], torch.tensor([0, 1, 2]))
    with Precision("amp", CPU).autocast():
        output = method.output(batch.images)
        torch.manual_seed(0)  # of the global prompts that GalLoP drops
        inside = method.terms(output, batch)
    torch.manual_seed(0)
    outside = method.terms(output, batch)
    assert all(value.dtype == torch.float32 for value in inside.values())
    assert {k: v.item() for k, v in inside.items()} == {k: v.item() for k, v in outside.items()}


@pytest.mark.parametrize("name", ["CoOp", "ALIGN", "VPT"])
@pytest.mark.parametrize("kind", ["fp32", "amp", "fp16"])
def test_features_that_losses_read_are_float32(tiny_clip, name, kind):
    clip_model, how = copy.deepcopy(tiny_clip), Precision(kind, CPU, half_on_cpu=True)
    method = model_of(clip_model, name, settings(name))
    how.place(method, clip_model)
    with torch.no_grad(), how.autocast():
        _, image, text = method.output(images())
    found = {x.dtype for x in (image.z, image.raw, text.h, text.raw)}
    assert found == {torch.float32}
    assert (image.r is None) == (name != "ALIGN")


# ------------------------------------------------------------------ float16

NAMES = ["forest", "sea or lake", "road"]
LABELS = torch.arange(3)
HALF = [name for name in METHODS if name != "SkipTuning"]  # test_skiptuning.py
VIEWS = 10  # of which a tenth is selected
SEARCHES = "SEARCH", "SEARCH_HP"  # fits for several settings
# Pixels move along the sign of a gradient, which rounding can change; differences of cosines; a
# step that moves temperatures far.
COARSE = {"SPARC": 0.05, "TTC": 0.05, "DualCoOp": 0.05, "RAM": 0.2}


def take_support(method, name, how) -> None:
    """Give a method its support as a trainer does: encoded in the precision of the run."""
    support = support_of(name, NAMES)
    features, labels = encode_batches(
        method, [{"img": support["images"][0], "label": support["labels"]}], how
    )
    make_room(method, len(labels))
    if isinstance(method, OneView):
        method.take_views([features], labels)
    else:
        method.take_support(features[None], labels)


def outcome(original, name, kind) -> torch.Tensor:
    """Do a step, and return the logits of an evaluation: all finite, and no step is skipped."""
    embedding = original.token_embedding.weight  # large, and never written to
    clip_model = deepcopy(original, {id(embedding): embedding})
    how = Precision(kind, CPU, half_on_cpu=True)
    torch.manual_seed(0)
    node = settings(name) | {key: False for key in SEARCHES if key in METHODS[name].defaults}
    method = model_of(clip_model, name, node, NAMES)
    for teacher in (part for part in method.modules() if isinstance(part, Teacher)):
        del teacher.sentences.rows[2:]
    how.place(method, clip_model)
    if isinstance(method, OnSupport) and method.support_passes:
        take_support(method, name, how)
    inputs = images()
    if method.trains:
        with how.autocast():
            begin_stage(method, 0)
            rows = method.clip_features(inputs) if trains_on_support(type(method)) else inputs
        batch = method.batch(
            [rows] * method.views, LABELS[: 0 if isinstance(method, Unlabelled) else 3]
        )
        learned = method.learned().values()
        before = [p.detach().clone() for p in learned]
        _, terms = training_step(method.train(), batch, torch.optim.SGD(learned, lr=0.01), how)
        assert terms["loss"].isfinite() and how.scaler.get_scale() == running.INIT_SCALE
        assert all(p.isfinite().all() for p in learned)
        assert not all(map(torch.equal, before, learned))
    reset(method.eval())
    with torch.no_grad(), how.autocast():
        views = [inputs[:1] + shift for shift in torch.randn(VIEWS)]
        logits = method.predict(views if count_views(method) > 1 else inputs).logits
    assert logits.dtype == torch.float32 and logits.isfinite().all()
    return logits


@pytest.mark.parametrize("kind", ["fp32", "amp"])
def test_gradients_are_clipped_without_their_scale(tiny_clip, kind):
    """Over all that is learned; smaller ones stay."""
    moved = {}
    for norm in (0.0, 1e-3, 1e3):
        clip_model, how = copy.deepcopy(tiny_clip), Precision(kind, CPU, half_on_cpu=True)
        torch.manual_seed(0)
        method = model_of(clip_model, "ALIGN", settings("ALIGN")).train()
        how.place(method, clip_model)
        learned = method.learned().values()
        before = [p.detach().clone() for p in learned]
        optimizer = torch.optim.SGD(learned, lr=1.0)
        training_step(method, Batch([images()], LABELS), optimizer, how, norm)
        steps = zip(learned, before, strict=True)
        moved[norm] = torch.cat([(p.detach() - start).flatten() for p, start in steps])
    assert moved[0.0].norm() > 1e-2 and moved[1e3].equal(moved[0.0])
    torch.testing.assert_close(moved[1e-3].norm(), torch.tensor(1e-3), rtol=1e-2, atol=0)


@pytest.fixture(scope="module")
def narrow():
    """A CLIP of half the tiny one's width: products in float16 are slow on CPUs."""
    return clip_of(vision_layers=4, vision_patch_size=8, transformer_layers=4)


@pytest.mark.parametrize("name", HALF)
def test_a_step_and_an_evaluation(narrow, name):
    outcome(narrow, name, "fp16")


@pytest.mark.parametrize("name", slow_but(HALF, "ALIGN", "CoOp"))
def test_amp_computes_nearly_the_same(tiny_clip, name):
    fp16, amp = (outcome(tiny_clip, name, kind) for kind in ("fp16", "amp"))
    share = COARSE.get(name, 0.01)
    assert (fp16 - amp).abs().max() < share * amp.abs().max()


def test_a_killed_run_goes_on_with_its_loss_scale(tmp_path, monkeypatch):
    """It begins so high that steps are skipped in the first epoch: from it, others would be."""
    monkeypatch.setattr(trainer, "Precision", partial(Precision, half_on_cpu=True))
    monkeypatch.setattr(running, "INIT_SCALE", 2.0**16)
    prec = ["TRAINER.COOP.PREC", "fp16"]
    assert tiny.run(tmp_path, "CoOp", tmp_path / "whole", 2, extra=prec) == 0
    with tiny.killed_after(epoch=1):
        assert tiny.run(tmp_path, "CoOp", tmp_path / "parts", 2, extra=prec) == 130
    assert tiny.run(tmp_path, "CoOp", tmp_path / "parts", 2, extra=prec) == 0
    file = "prompt_learner/model.pth.tar-2"
    whole, parts = (torch.load(tmp_path / x / file, weights_only=True) for x in ("whole", "parts"))
    assert whole["scaler"] == parts["scaler"] and 1 < whole["scaler"]["scale"] < 2.0**16
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][name]), name
    record = json.loads((tmp_path / "parts" / "results.json").read_text())
    assert record["precision"] == "float16"


# ------------------------------------------------------------------ full precision

matmul = torch.backends.cuda.matmul
NEW = hasattr(matmul, "fp32_precision")  # since PyTorch 2.9


def switches():
    """Return the value of each switch, or the name of the error if PyTorch refuses to read it."""
    found = {}
    for name, read in (
        ("old", torch.get_float32_matmul_precision),
        ("tf32", lambda: matmul.allow_tf32),
        ("cuda", lambda: matmul.fp32_precision),
        ("mkldnn", lambda: torch.backends.mkldnn.matmul.fp32_precision),
        ("all", lambda: torch.backends.fp32_precision),
    ):
        try:
            found[name] = read()
        except (RuntimeError, AttributeError) as error:
            found[name] = type(error).__name__
    return found


def set_to(name, value):
    match name:
        case "old":
            torch.set_float32_matmul_precision(value)
        case "tf32":
            matmul.allow_tf32 = value
        case "cuda":
            matmul.fp32_precision = value
        case "mkldnn":
            torch.backends.mkldnn.matmul.fp32_precision = value
        case "all":
            torch.backends.fp32_precision = value


@pytest.fixture
def restored():
    yield
    torch.set_float32_matmul_precision("highest")
    if NEW:
        torch.backends.fp32_precision = "none"
        matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "none"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("old", "highest"),
        ("old", "high"),
        ("old", "medium"),
        ("tf32", True),
        ("cuda", "tf32"),
        ("mkldnn", "bf16"),
        ("all", "tf32"),
    ],
)
def test_switches_read_inside_say_full_precision(restored, name, value):
    if not NEW and name in ("cuda", "mkldnn", "all"):
        pytest.skip("this PyTorch has only the old switches")
    set_to(name, value)
    before = switches()
    with full_precision("cpu"):
        inside = switches()
    assert inside["old"] == "highest" and inside["tf32"] is False
    if NEW:
        assert {inside["cuda"], inside["mkldnn"]} <= {"none", "ieee"}
    assert switches() == before


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_the_solver_stays_exact(restored, precision):
    generator = torch.Generator().manual_seed(9)
    cost = 2 * torch.rand(8, 64, 8, generator=generator)
    expected = sinkhorn(cost)
    torch.set_float32_matmul_precision(precision)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = sinkhorn(cost)
        assert torch.is_autocast_enabled("cpu")
    assert torch.equal(result.plan, expected.plan)


def test_switches_are_restored_after_an_error(restored):
    torch.set_float32_matmul_precision("high")
    with pytest.raises(ZeroDivisionError), full_precision("cpu"):
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "high" and torch.is_grad_enabled()
