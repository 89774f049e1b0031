"""Half precision is at least as close to float32 as OpenAI's modules in half precision."""

import copy

import pytest
import torch
from half import CPU, compare, errors, exact, step, worse
from models import images, model_of, settings

from trainers.prompting.method import Batch
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step

# Cases (setting, precision, loud channel) and their numbers of draws. Errors vary little if no
# channel is loud or if it is loud from the start, and much if every block adds to it.
QUICK = [("ALIGN", "bf16", "start"), ("MaPLe", "fp16", "start")]
SLOW = [
    (setting, kind, loud)
    for setting in ("ALIGN", "MaPLe")
    for kind in ("fp16", "amp", "bf16")
    for loud in ("quiet", "start", "blocks", "gains")
]
DRAWS = {"quiet": 12, "start": 12, "blocks": 50, "gains": 50}


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
    clip_model, how = copy.deepcopy(tiny_clip), Precision("fp32" if kind == "fp16" else kind, CPU)
    how.name = kind  # half precision as on a GPU
    method = model_of(clip_model, name, settings(name))
    how.place(method, clip_model)
    with torch.no_grad(), how.autocast():
        _, image, text = method.output(images())
    found = {x.dtype for x in (image.z, image.raw, text.h, text.raw)}
    assert found == {torch.float32}
    assert (image.r is None) == (name != "ALIGN")
