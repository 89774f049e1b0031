"""The memory budget: estimated and measured memory of a step, and the effect of recomputing."""

import copy
import math
import platform
import re
import subprocess
import sys

import pytest
import torch
from models import align, images, model_of, outcome

from trainers.prompting import UserError
from trainers.prompting.running.memory import GIB, ITEMSIZE, memory_budget

PLENTY = 8 * GIB


def just_below(plan):
    """Return the largest budget that a plan does not fit; a sixteenth of a budget is for chunks."""
    return plan.needed * 16 // 15 - 16


def kept_bytes(model, batch):
    """Return the bytes that autograd keeps in a training step, without the weights.

    Storages that tensors share count once.
    """
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(images(batch)).sum()
    return sum(kept.values())


@pytest.mark.parametrize("classes", [5, 60])
@pytest.mark.parametrize(("M", "N"), [(2, 3), (3, 1), (1, 0), (0, 3)])
def test_the_estimate_is_what_autograd_keeps(tiny_clip, M, N, classes):
    names = [f"{word} {i}" for i in range(classes // 5) for word in ("sea", "forest", "road")]
    model = align(tiny_clip, M, N, names=names)
    needed = model.fit_memory(PLENTY, 4).needed
    assert 0.6 < needed / kept_bytes(model, 4) < 1.5


def test_the_estimate_holds_with_amp(tiny_clip):
    names = [f"{word} {i}" for i in range(12) for word in ("sea", "forest", "road")]
    model = align(copy.deepcopy(tiny_clip), 2, 3, names=names)
    model.hold_weights_in(torch.bfloat16)
    needed = model.fit_memory(PLENTY, 4, ITEMSIZE["amp"]).needed
    with torch.autocast("cpu", torch.bfloat16):
        assert 0.6 < needed / kept_bytes(model, 4) < 1.5


def test_recomputing_changes_nothing_but_the_memory(tiny_clip):
    torch.manual_seed(3)
    plain = align(tiny_clip, 2, 2)
    state = plain.public_state_dict()
    logits, grads = outcome(plain, state)
    plan, kept = plain.fit_memory(PLENTY, 4), kept_bytes(plain, 4)
    assert plan.recompute == ()
    while len(plan.recompute) < 2:
        thrifty = align(tiny_clip, 2, 2)
        plan = thrifty.fit_memory(just_below(plan), 4)
        same, others = outcome(thrifty, state)
        assert torch.equal(logits, same)
        assert all(torch.allclose(grads[n], others[n], atol=2e-6) for n in grads)  # rounding
        assert plan.recompute
        assert kept_bytes(thrifty, 4) < kept


def test_the_cheaper_encoder_is_recomputed_first(tiny_clip):
    model = align(tiny_clip, 4, 1)
    plan = model.fit_memory(just_below(model.fit_memory(PLENTY, 4)), 4)
    assert plan.recompute == ("text",)  # one text prompt costs less than four views of an image


def test_a_budget_too_small_says_what_suffices(tiny_clip):
    model = align(tiny_clip, 2, 2)
    with pytest.raises(UserError, match="MEMORY_BUDGET leaves 0.00 GiB: set") as caught:
        model.fit_memory(1000, 4000)
    enough = float(re.search(r"TRAINER.MEMORY_BUDGET ([\d.]+),", str(caught.value))[1])
    assert model.fit_memory(int(enough * GIB), 4000).recompute


def test_image_conditional_prompts_count_one_text_pass_per_image(tiny_clip):
    model = model_of(tiny_clip, "CoCoOp", {"N_CTX": 4})
    one, four = (model.fit_memory(PLENTY, batch).needed for batch in (1, 4))
    assert four == 4 * one


def test_the_default_budget_depends_on_the_machine():
    assert memory_budget(1.5, torch.device("cpu")) == 1.5 * GIB
    assert memory_budget(0, torch.device("cpu")) > GIB // 4
    for value in (-1, math.inf, math.nan):
        with pytest.raises(UserError, match=f"MEMORY_BUDGET is {value}"):
            memory_budget(value, torch.device("cpu"))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_is_used_again():
    program = (
        "import resource, torch\n"
        "from trainers.prompting.running.memory import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(16 << 20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults(), faults())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, second = map(int, done.stdout.split())
    assert second < 100 < first
