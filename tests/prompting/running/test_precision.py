"""Half precision is at least as close to float32 as OpenAI's modules in half precision."""

import copy

import pytest
import torch
from half import CPU, compare, errors, exact, step, worse
from models import images, model_of, settings
from torch import nn

from trainers.prompting.method import Batch
from trainers.prompting.running import precision as running
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step

# Cases (setting, precision, loud channel) and their numbers of draws. Errors vary little if no
# channel is loud or if it is loud from the start, and much if every block adds to it. On the CPU,
# amp is bf16, bit for bit (below).
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
