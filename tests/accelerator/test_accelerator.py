"""Every method on a GPU: golden numbers in all precisions, waits of the host, whole runs.

`tests/prompting/conformance/test_meta.py` checks devices and waits without one, in float32.
`ACCELERATOR=cpu pytest tests/accelerator` computes the numbers on a CPU, as an accelerator does.
"""

import contextlib
import io
import json
import os
from dataclasses import replace

import pytest
import tiny
import torch
from cases import ALIGN, NAMES, PRECISIONS, SETTINGS
from golden_files import (
    AT_TEST_TIME,
    FILES,
    OF_SEVERAL,
    ON_SUPPORT,
    awt,
    awt_few_shot,
    awt_views,
    build,
    build_several,
    near,
    predicted,
    read,
)
from half import compare, worse
from paths import GOLDEN

from benchmark.measure.waits import note_waits
from trainers.prompting import build_method, load_clip
from trainers.prompting.capabilities.biased import Biased
from trainers.prompting.capabilities.on_support import OnSupport, trains_on_support
from trainers.prompting.method import METHODS
from trainers.prompting.running.precision import Precision, fix_cublas
from trainers.prompting.step import training_step
from trainers.prompting.trainer.trainer import PromptTrainer
from trainers.prompting.use import commands

fix_cublas()  # before the first product

CPU, GPU = torch.device("cpu"), torch.device(os.environ.get("ACCELERATOR", "cuda"))
without_gpu = not torch.cuda.is_available()
pytestmark = pytest.mark.skipif(GPU != CPU and without_gpu, reason="needs a GPU of CUDA")
on_a_gpu = pytest.mark.skipif(without_gpu, reason="needs a GPU of CUDA")
TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
MORE_IMAGES = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))
# SPARC needs two sentences of each class: with one, a component that is (1, -1) has either sign
SEVERAL = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 1], [1, 1, 0]], dtype=torch.int8)
# Methods that take several labels and have no golden file of them, with keys that fit the CLIP.
OF_ONE_LABEL = {
    "ZeroshotCLIP": {}, "CoOp": {"N_CTX": 4}, "MaPLe": {"PROMPT_DEPTH": 2}, "PLOT": {"N": 2},
    "ALIGN": ALIGN, "LinearProbe": {"SEARCH_HP": False}, "TipAdapter": {"AUGMENT_EPOCH": 1},
    "SPARC": {},
}  # fmt: skip

# Bounds against float32 on the CPU: the difference of logits, which spread over several units, and
# the cosine of gradients.
LOGITS = {"fp32": 1e-4, "fp16": 0.03, "amp": 0.03, "bf16": 0.24}  # 3 bits fewer
GRADIENTS = {"fp32": 0.99999, "fp16": 0.999, "amp": 0.999, "bf16": 0.999}
# Bounds against golden numbers, which some methods multiply by 100.
GOLDEN_LOGITS = {"fp32": 1e-4, "fp16": 0.05, "amp": 0.05}
GOLDEN_LOSS = {"fp32": 1e-4, "fp16": 0.01, "amp": 0.01}  # of a loss above 1, this part
RELUS = ("clip_adapter", "promptkd")  # one of hundreds of units that rounding turns on or off
WITHOUT_FILE = ("UPT", "ALIGN", "ALIGN, independent", "ALIGN, unified", "ALIGN, one side",
                "ALIGN, small lambda")  # fmt: skip
# Whole runs of methods that need more from a trainer than a step: own gradients, a mean over
# epochs, a text per image, parts, views, dropout, additions inside the encoders.
RUNS = [(name, "fp16") for name in ("CoOp", "ProGrad", "PromptSRC", "CoCoOp", "TCP", "CoPrompt",
                                    "CLIPLoRA", "MMRL", "MMAPP", "ALIGN")]  # fmt: skip
RUNS.append(("MMP", "amp"))

SCALER = "trainers/prompting/step.py"  # GradScaler asks whether a step has overflowed


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """No TF32, which is too coarse for a comparison; and what a run sets is set back."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    yield
    torch.use_deterministic_algorithms(False)


def placed(method, clip_model, precision, device) -> Precision:
    """Move a method to the device, in its precision; return the precision."""
    how = Precision(precision, device, half_on_cpu=True)
    how.place(method, clip_model)
    method.to(device).train()
    if device == GPU:
        method.text_encoder.packs_on = ()  # whole sentences, if it is a CPU, too
    return how


def check_waits(method, batch, optimizer, how) -> None:
    """Do a step, in which the host waits for GradScaler only; for a CPU it never waits."""
    if how.device == CPU:
        training_step(method, batch, optimizer, how)
        return
    with note_waits() as waits:
        training_step(method, batch, optimizer, how)
    assert [wait.split(":")[0] for wait in waits] == [SCALER] * how.scaler.is_enabled(), waits


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.detach().cpu() - b.cpu()).abs().max().item()


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.float().cpu().flatten() for t in tensors])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_numbers(path, precision, tmp_path):
    golden, clip_model = read(path), load_clip(TINY)
    method = build(golden, clip_model, tmp_path)
    if hasattr(method.settings, "SINKHORN_MAX_ITER"):  # all are computed, and 100 suffice
        method.settings = replace(method.settings, SINKHORN_MAX_ITER=100)
    how = placed(method, clip_model, precision, GPU)
    with how.autocast():  # before a step, which changes some buffers
        evaluated = predicted(method, golden)
    wanted = golden.tensors.get("logits_eval", golden.tensors["logits"])
    assert near(evaluated.cpu(), wanted, GOLDEN_LOGITS[precision])
    expected = golden.part("grad/")
    if expected and path.stem not in AT_TEST_TIME + ON_SUPPORT:
        method.train()
        views = [view.to(GPU) for view in golden.views]
        batch = method.batch(views, golden.tensors["label"].to(GPU))
        optimizer = torch.optim.SGD(method.learned().values(), lr=0.0)
        output, terms = training_step(method, batch, optimizer, how)
        own = method.public_parameters()
        a, b = flat(own[key].grad for key in expected), flat(expected.values())
        jumps = path.stem in RELUS and precision != "fp32"
        cosine = torch.cosine_similarity(a, b, dim=0)
        assert cosine > (0.99 if jumps else GRADIENTS[precision])
        loss = golden.tensors["loss"]
        assert difference(terms["loss"], loss) < GOLDEN_LOSS[precision] * loss.clamp_min(1)
        assert near(output.logits.cpu(), golden.tensors["logits"], GOLDEN_LOGITS[precision])
        check_waits(method, batch, optimizer, how)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_golden_numbers_of_awt(precision):
    golden = read(GOLDEN / "awt.safetensors")
    for make, wanted in ((awt, "zero_shot/logits_eval"), (awt_few_shot, "logits_eval")):
        clip_model = load_clip(TINY)
        method = make(golden, clip_model)
        how = placed(method, clip_model, precision, GPU)
        with how.autocast():
            evaluated = predicted(method, golden).cpu()
        assert near(evaluated, golden.tensors[wanted], GOLDEN_LOGITS[precision])
    views = [view.to(GPU) for view in awt_views(golden)]
    batch = method.train().batch(views, golden.tensors["label"].to(GPU))
    optimizer = torch.optim.SGD(method.learned().values(), lr=0.0)
    output, terms = training_step(method, batch, optimizer, how)
    expected, own = golden.part("grad/"), method.public_parameters()
    a = flat(own[f"adapter_learners.{key}"].grad for key in expected)
    assert torch.cosine_similarity(a, flat(expected.values()), dim=0) > GRADIENTS[precision]
    assert near(output.logits.cpu(), golden.tensors["logits"], GOLDEN_LOGITS[precision])
    loss = golden.tensors["loss"]
    assert difference(terms["loss"], loss) < GOLDEN_LOSS[precision] * loss.clamp_min(1)
    check_waits(method, batch, optimizer, how)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", OF_SEVERAL)
def test_golden_numbers_of_several_labels(name, precision):
    golden, method, clip_model = build_several(name)
    how = placed(method, clip_model, precision, GPU)
    images, labels = golden.tensors["image"].float().to(GPU), golden.tensors["label"].to(GPU)
    if "logits" in golden.tensors:
        with torch.no_grad(), how.autocast():
            evaluated = method.eval()(images)
        assert near(evaluated.cpu(), golden.tensors["logits"], GOLDEN_LOGITS[precision])
    if not method.trains:
        return
    batch = method.train().batch(images, labels)
    optimizer = torch.optim.SGD(method.learned().values(), lr=0.0)
    _, terms = training_step(method, batch, optimizer, how)
    expected, own = golden.part("grad/"), method.public_parameters()
    a, b = flat(own[key].grad for key in expected), flat(expected.values())
    assert torch.cosine_similarity(a, b, dim=0) > GRADIENTS[precision]
    loss = golden.tensors["loss"]
    assert difference(terms["loss"], loss) < GOLDEN_LOSS[precision] * loss.clamp_min(1)
    check_waits(method, batch, optimizer, how)


def step_of_several(name, precision, device):
    """Return what `step` does, of images with several labels; 0 and 1 of methods without a step."""
    kind, more = METHODS[name], {"several": True}
    if issubclass(kind, OnSupport):
        more["support"] = {"images": IMAGES, "labels": SEVERAL}
    torch.manual_seed(0)
    clip_model = load_clip(TINY)
    method = build_method(name, OF_ONE_LABEL[name], clip_model, NAMES, **more)
    how = placed(method, clip_model, precision, device)
    images, logits, gradients = IMAGES.to(device), torch.zeros(1), torch.ones(1)
    if isinstance(method, Biased):
        with torch.no_grad(), how.autocast():
            method.start_bias(method(images))
    if method.trains and not trains_on_support(kind):
        optimizer = torch.optim.SGD(method.learned().values(), lr=0.01, momentum=0.9)
        batch = method.batch(images, SEVERAL.to(device))
        output, _ = training_step(method, batch, optimizer, how)
        logits = output.logits.detach().clone()
        gradients = flat(p.grad for p in method.learned().values())
        check_waits(method, batch, optimizer, how)
    method.eval()
    with torch.no_grad(), how.autocast():
        return logits, gradients, method.predict(MORE_IMAGES.to(device)).logits


@pytest.mark.parametrize("precision", [*PRECISIONS, "bf16"])
@pytest.mark.parametrize("name", OF_ONE_LABEL)
def test_several_labels_without_a_golden_file(name, precision):
    found, expected = (step_of_several(name, *how) for how in ((precision, GPU), ("fp32", CPU)))
    for there, here in zip(found[::2], expected[::2], strict=True):
        assert difference(there, here) < LOGITS[precision]
    assert torch.cosine_similarity(found[1], expected[1], dim=0) > GRADIENTS[precision]


def step(setting, precision, device):
    """Return logits and gradients of a step, and logits of an evaluation after two steps."""
    name, node, *dataset = SETTINGS[setting]
    torch.manual_seed(0)
    clip_model = load_clip(TINY)
    method = build_method(name, node, clip_model, NAMES, *dataset)
    how = placed(method, clip_model, precision, device)
    optimizer = torch.optim.SGD(method.learned().values(), lr=0.01, momentum=0.9)
    batch = method.batch([IMAGES.to(device)] * method.views, LABELS.to(device))
    output, _ = training_step(method, batch, optimizer, how)
    gradients = flat(p.grad for p in method.learned().values())
    logits = output.logits.detach().clone()
    check_waits(method, batch, optimizer, how)
    method.eval()
    with torch.no_grad(), how.autocast():
        return logits, gradients, method(batch.images)


@pytest.mark.parametrize("precision", [*PRECISIONS, "bf16"])
@pytest.mark.parametrize("setting", WITHOUT_FILE)
def test_settings_without_a_golden_file(setting, precision):
    logits, gradients, evaluated = step(setting, precision, GPU)
    expected, expected_gradients, expected_evaluated = step(setting, "fp32", CPU)
    assert difference(logits, expected) < LOGITS[precision]
    assert difference(evaluated, expected_evaluated) < LOGITS[precision]
    cosine = torch.cosine_similarity(gradients, expected_gradients, dim=0)
    assert cosine > GRADIENTS[precision]


@on_a_gpu
@pytest.mark.slow
@pytest.mark.parametrize("loud", ["quiet", "start", "blocks"])
@pytest.mark.parametrize("precision", ["fp16", "amp"])
@pytest.mark.parametrize("setting", ["ALIGN", "MaPLe"])
def test_errors_of_half_precision_are_those_of_openais_modules(setting, precision, loud):
    """tests/prompting/running/test_precision.py has more such cases on the CPU."""
    assert not worse(compare(setting, precision, GPU, loud, 12))


@on_a_gpu
@pytest.mark.parametrize(("setting", "precision"), [
    pytest.param(*case, marks=[] if case == RUNS[0] else pytest.mark.slow) for case in RUNS
])  # fmt: skip
def test_whole_runs(setting, precision, tmp_path, monkeypatch):
    """A run, the same one interrupted and resumed, an evaluation, and predictions."""
    name, node, *_ = SETTINGS[setting]
    method = METHODS[name]
    node = {k: v for k, v in node.items() if k != "SENTENCES"} | {"PREC": precision}
    places = {key: method.public.outside.get(key, f"TRAINER.{method.node}.{key}") for key in node}
    pairs = [word for key, value in node.items() for word in (places[key], str(value))]
    pairs += ["TRAINER.DETERMINISTIC", "True"]

    def run(output, *flags):
        return tiny.run(tmp_path, name, tmp_path / output, 2, *flags, extra=pairs)

    def after_one(self, after_epoch=PromptTrainer.after_epoch):
        after_epoch(self)
        if self.epoch == 0:
            raise KeyboardInterrupt

    assert run("whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr(PromptTrainer, "after_epoch", after_one)
        assert run("parts") == 130
    assert run("parts") == 0
    assert run("tested", "--eval-only", "--model-dir", str(tmp_path / "whole")) == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    last = f"{method.public.folder}/model.pth.tar-2"
    whole, parts = (torch.load(tmp_path / x / last, weights_only=True) for x in ("whole", "parts"))
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, parts["state_dict"][key]), key
    assert whole["scaler"].get("scale") == parts["scaler"].get("scale")
    records = [tmp_path / x / "results.json" for x in ("whole", "parts", "tested")]
    assert len({json.loads(record.read_text())["accuracy"] for record in records}) == 1
    (here, _), (there, waits) = (predictions(tmp_path, device) for device in ("cpu", "cuda"))
    assert max(abs(a - b) for a, b in zip(here, there, strict=True)) < 1e-3
    waits = [wait for wait in waits if not wait.endswith(" main")]
    own = [i for i, wait in enumerate(waits) if wait.endswith(" probabilities")]
    assert own == [len(waits) - 2, len(waits) - 1], waits
    # in the first batch a teacher may encode its sentences, and kernels are compared once
    once = ("/encoders/text.py", "/transport/")
    assert all(any(place in wait for place in once) for wait in waits[: own[0]]), waits


def predictions(folder, device) -> tuple[list[float], list[str]]:
    """Probabilities of the 16 test images, in two batches, by `predict`; and what it waited for."""
    images = [str(path) for path in sorted((folder / "tiny_colours").glob("test_*.png"))]
    words = ["predict", "--model-dir", str(folder / "whole"), *images, "--device", device]
    with contextlib.redirect_stdout(io.StringIO()) as said, note_waits() as waits:
        assert commands.main([*words, "--format", "json", "--batch-size", "8"]) == 0
    found = json.loads(said.getvalue())
    best = [sorted((c["class"], c["probability"]) for c in image["classes"]) for image in found]
    return [p for image in best for _, p in image], waits
