"""Devices by name, the bytes of a step, and what recomputing changes."""

import copy
import platform
import re

import pytest
import torch
from fresh import run_fresh
from models import NAMES, align, images, model_of, outcome
from paths import ROOT

from trainers.prompting import UserError, build_method
from trainers.prompting.method import METHODS
from trainers.prompting.node import read_node
from trainers.prompting.running import devices as named
from trainers.prompting.running import memory
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step

PLENTY = 8 * memory.GIB


FP32 = Precision("fp32", torch.device("cpu"))


def setup(model, budget, batch=4, precision=FP32):
    """Fit a model into a budget in bytes; return the encoders to recompute."""
    memory.fit(model.train(), batch, budget / memory.GIB, precision)
    return memory.recomputed_encoders(model)


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
    assert memory.step_bytes(model, 4, FP32) == pytest.approx(kept_bytes(model, 4), rel=0.01)


def test_the_estimate_holds_with_amp(tiny_clip):
    names = [f"{word} {i}" for i in range(12) for word in ("sea", "forest", "road")]
    clip_model, amp = copy.deepcopy(tiny_clip), Precision("amp", FP32.device)
    model = align(clip_model, 2, 3, names=names)
    amp.place(model, clip_model)
    needed = memory.step_bytes(model, 4, amp)
    with amp.autocast():
        assert needed == pytest.approx(kept_bytes(model, 4), rel=0.01)


def test_image_conditional_prompts_count_one_text_pass_per_image(tiny_clip):
    model = model_of(tiny_clip, "CoCoOp", {"N_CTX": 4})
    assert memory.step_bytes(model, 4, FP32) == pytest.approx(kept_bytes(model, 4), rel=0.01)


@pytest.mark.slow
def test_recomputing_changes_nothing_but_the_memory(tiny_clip):
    torch.manual_seed(3)
    plain = align(tiny_clip, 2, 2)
    state = plain.public_state_dict()
    logits, grads = outcome(plain, state)
    kept = kept_bytes(plain, 4)
    assert setup(plain, PLENTY) == []
    for wanted in (["text attention"], ["text blocks"], ["text blocks", "image blocks"]):
        thrifty = align(tiny_clip, 2, 2)
        budgets = (kept * percent / 100 for percent in range(100, 0, -1))
        budget = next(budget for budget in budgets if setup(thrifty, budget) == wanted)
        same, others = outcome(thrifty, state)
        assert torch.equal(logits, same)
        assert all(torch.equal(grads[n], others[n]) for n in grads)
        assert kept_bytes(thrifty, 4) < budget <= kept


@pytest.mark.parametrize(
    "node", [{"CSC": True}, {"CLASS_TOKEN_POSITION": "front"}], ids=["CSC", "front"]
)
def test_learned_tokens_after_the_shared_ones_are_recomputed(tiny_clip, node):
    method = model_of(tiny_clip, "CoOp", {"N_CTX": 4, **node})
    logits, grads = outcome(method, method.public_state_dict())
    kept = kept_bytes(method, 4)
    method.text_encoder.recompute = 2
    assert kept_bytes(method, 4) < 0.5 * kept
    same, others = outcome(method, method.public_state_dict())
    assert torch.equal(logits, same)
    assert all(torch.equal(grads[n], others[n]) for n in grads)


def test_measuring_changes_nothing(tiny_clip):
    """Dropout draws the same numbers afterwards, and no image is remembered."""
    method = build_method("CLIPLoRA", {}, copy.deepcopy(tiny_clip), NAMES).train()
    torch.manual_seed(5)
    before = [x.clone() for x in method.buffers()]
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert memory.step_bytes(method, 4, FP32) > 0
    assert torch.equal(torch.rand(3), drawn)
    assert all(torch.equal(*pair) for pair in zip(method.buffers(), before, strict=True))


def test_a_budget_too_small_says_what_suffices(tiny_clip):
    model = align(tiny_clip, 2, 2)
    with pytest.raises(UserError, match="MEMORY_BUDGET leaves 0.00 GiB: set") as caught:
        setup(model, 1000, 4000)
    enough = float(re.search(r"TRAINER.MEMORY_BUDGET ([\d.]+),", str(caught.value))[1])
    assert setup(model, enough * memory.GIB, 4000)


# ------------------------------------------------------------------------------- by trying


class Short(METHODS["CLIPLoRA"]):
    """Changes a buffer and draws random numbers, then runs out of memory, `short` times."""

    node = "SHORT"
    short = 0
    error: type[RuntimeError] = torch.OutOfMemoryError
    said = "CUDA out of memory. Tried to allocate 2 GiB"

    def loss(self, output, batch):
        self.seen += 1
        loss = super().loss(output, batch) * torch.rand(())
        if self.short:
            self.short -= 1
            raise self.error(self.said)
        return loss


def one_step(clip_model, short, kind=Short):
    """Do a training step that runs out of memory `short` times; return the method."""
    torch.manual_seed(7)
    settings = read_node(kind, {"DROPOUT_RATE": 0.5})
    method = kind(settings, copy.deepcopy(clip_model), NAMES, "").train()
    method.register_buffer("seen", torch.zeros(()))
    method.short = short
    optimizer = torch.optim.SGD(method.learned().values(), lr=0.1)
    batch = method.batch(images(3), torch.tensor([0, 1, 2]))
    training_step(method, batch, optimizer, FP32)
    return method


STEPS = (["text attention"], ["text blocks"], ["text attention", "image blocks"])
STEPS += (["text blocks", "image blocks"],)


@pytest.mark.parametrize(("short", "wanted"), list(enumerate(STEPS, 1)))
def test_a_step_that_does_not_fit_is_repeated(tiny_clip, capsys, short, wanted):
    plain, method = one_step(tiny_clip, 0), one_step(tiny_clip, short)
    assert memory.recomputed_encoders(plain) == [] and memory.recomputed_encoders(method) == wanted
    assert capsys.readouterr().out.count("Memory: a step did not fit; recomputing") == short
    assert method.seen == 1
    found = zip(*(one.learned().values() for one in (plain, method)), strict=True)
    assert all(torch.equal(a, b) and torch.equal(a.grad, b.grad) for a, b in found)


@pytest.mark.parametrize("library", ["CUBLAS", "CUDNN"])
def test_a_library_that_lacks_memory_counts(tiny_clip, library):
    class OfLibrary(Short):
        error = RuntimeError
        said = f"CUDA error: {library}_STATUS_ALLOC_FAILED when calling"

    assert memory.recomputed_encoders(one_step(tiny_clip, 1, OfLibrary)) == STEPS[0]
    OfLibrary.said = f"CUDA error: {library}_STATUS_EXECUTION_FAILED"
    with pytest.raises(RuntimeError, match="EXECUTION_FAILED"):
        one_step(tiny_clip, 1, OfLibrary)


def test_a_step_that_never_fits_is_an_error(tiny_clip):
    with pytest.raises(torch.OutOfMemoryError):
        one_step(tiny_clip, 5)


def test_the_default_budget_depends_on_the_machine():
    assert memory.memory_budget(1.5, torch.device("cpu")) == 1.5 * memory.GIB
    assert memory.memory_budget(0, torch.device("cpu")) > memory.GIB // 4


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
@pytest.mark.slow
def test_freed_memory_is_used_again():
    program = (
        "import ctypes, resource, torch\n"
        "from trainers.prompting.running.memory import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)\n"  # no huge pages, whose faults are too few
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(16 << 20)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults(), faults())"
    )
    first, second = map(int, run_fresh(program, cwd=ROOT).stdout.split())
    assert second < 100 < first


# ------------------------------------------------------------------ devices


@pytest.fixture
def devices(monkeypatch):
    """Lets PyTorch find these numbers of devices of each kind."""

    def find(**counts):
        for kind in ("cuda", "mps", "xpu"):
            count = counts.get(kind, 0)
            monkeypatch.setattr(getattr(torch, kind), "device_count", lambda count=count: count)

    return find


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "gpu", "", "cpu:3", "meta", "cuda:"])
def test_a_device_that_pytorch_cannot_use(devices, name):
    devices()
    with pytest.raises(UserError) as error:
        named.usable_device(name)
    assert str(error.value) == f"PyTorch cannot use the device '{name}' here: give cpu"


def test_devices_that_are_here(devices):
    devices(cuda=2, mps=1)
    for name in ("cpu", "cuda", "cuda:1", "mps", "mps:0"):
        assert str(named.usable_device(name)) == name
    with pytest.raises(UserError, match="'cuda:2' here: give cpu or cuda or cuda:0 or cuda:1 or m"):
        named.usable_device("cuda:2")


def test_the_usual_device_is_a_gpu_of_cuda_or_the_cpu(devices):
    devices(cuda=1)
    assert named.usable_device(None) == torch.device("cuda")
    devices(mps=1)
    assert named.usable_device(None) == torch.device("cpu")


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A driver that knows one GPU, which PyTorch cannot use."""
    (tmp_path / "0000:01").mkdir()
    (tmp_path / "0000:01" / "information").write_text("Model: \t NVIDIA H100\nIRQ: 16\n")
    monkeypatch.setattr(named, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("built", "why"), [(None, "built for CPUs only"), ("12.4", "built for CUDA 12.4, which its")]
)
def test_a_gpu_that_pytorch_cannot_use_is_named(driver, monkeypatch, built, why):
    monkeypatch.setattr(torch.version, "cuda", built)
    said = named.idle_gpus()
    assert said.startswith(f"NVIDIA H100: PyTorch {torch.__version__} is {why}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert named.idle_gpus() == ""  # it is hidden on purpose


def test_no_gpu_is_idle_where_there_is_none_or_pytorch_uses_it(driver, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert named.idle_gpus() == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(named, "DRIVER", tmp_path / "none")
    assert named.idle_gpus() == ""
