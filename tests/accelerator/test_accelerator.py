"""Every method on a GPU: golden numbers in all precisions, devices, waits of the host, whole runs.

Without a GPU they run on a pretend one, which pretend.py explains. The cases run in separate
processes.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import PRECISIONS
from golden_files import FILES
from half import worse
from pretend import build_guard

PROGRAM = Path(__file__).parent / "program.py"

# The cases of the quick test; the slow test tries the others.
FEW = {
    ("golden", "kgcoop", "fp16"),
    ("golden", "maple_depth3", "amp"),
    ("golden", "align_paper_beta1", "fp32"),
    ("step", "ALIGN", "fp16"),
    ("fused", "ALIGN", "fp16"),
    ("run", "CoOp", "fp16"),
}
# Half precision compared with OpenAI's modules under autocast's lists for CUDA, see half.py;
# tests/prompting/running/test_precision.py has more such cases on the CPU.
HALVES = {
    ("half", setting, precision, loud)
    for setting in ("ALIGN", "MaPLe")
    for precision in ("fp16", "amp")
    for loud in ("quiet", "start", "blocks")
}
GOLDEN = {("golden", path.stem, precision) for path in FILES for precision in PRECISIONS}
WITHOUT_FILE = (
    "UPT", "ALIGN", "ALIGN, independent", "ALIGN, unified", "ALIGN, one side", "ALIGN, uniform",
    "ALIGN, nearest", "ALIGN, small lambda", "ALIGN, regularised",
)  # fmt: skip
STEPS = {("step", setting, precision) for setting in WITHOUT_FILE for precision in PRECISIONS}
# Whole runs of methods that need more from a trainer than a step: own gradients, a mean over
# epochs, a text per image, parts, views, dropout, additions inside the encoders.
RUNS = {
    ("run", setting, "fp16")
    for setting in ("ProGrad", "PromptSRC", "CoCoOp", "TCP", "CoPrompt", "CLIPLoRA",
                    "MMRL", "ALIGN")
}  # fmt: skip
RUNS |= {("run", "ALIGN, released", "amp")}
ALL = (GOLDEN | STEPS | RUNS | HALVES) - FEW

# Bounds against float32: the difference of logits, which spread over several units, and the cosine
# of gradients.
LOGITS = {"fp32": 2e-5, "fp16": 0.03, "amp": 0.03}
if torch.cuda.is_available():
    LOGITS["fp32"] = 1e-4  # of two processors, as for golden numbers
GRADIENTS = {"fp32": 0.99999, "fp16": 0.999, "amp": 0.999}
# Bounds against golden numbers, which some methods multiply by 100.
GOLDEN_LOGITS = {"fp32": 1e-4, "fp16": 0.05, "amp": 0.05}
GOLDEN_LOSS = {"fp32": 1e-4, "fp16": 0.01, "amp": 0.01}
# Settings whose gradient jumps if rounding changes a sign (an L1 loss) or the nearest patch.
JUMPS = {"ALIGN, regularised", "ALIGN, nearest"}

SCALER = "trainers/prompting/step.py"  # GradScaler asks whether a step has overflowed


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    if torch.cuda.is_available():
        return "real"
    if torch.version.cuda or torch.version.hip:
        pytest.skip("without a GPU, this needs a PyTorch build without CUDA")
    try:
        return build_guard(tmp_path_factory.mktemp("guard"))
    except OSError:
        pytest.skip("the pretend GPU needs g++")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the pretend GPU does not compile: {error.stderr[-300:]}")


def results(guard, folder, cases) -> dict:
    """Return the results of the cases, computed in one process."""
    run = subprocess.run(
        [sys.executable, PROGRAM, guard, folder],
        input=json.dumps(sorted(cases, key=str)),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return {tuple(case): found for *case, found in json.loads(run.stdout)}


@pytest.fixture(scope="module")
def found(request, guard, tmp_path_factory):
    """The results of all cases that this call of pytest tests."""
    items = [item for item in request.session.items if item.module is request.module]
    cases = {item.callspec.params["case"] for item in items}
    return results(guard, tmp_path_factory.mktemp("cases"), cases)


@pytest.mark.parametrize("case", sorted(FEW, key=str), ids=str)
def test_a_few(found, case, record_property):
    record_property("found", json.dumps(found[case]))
    check(*case, found=found[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(ALL, key=str), ids=str)
def test_the_rest(found, case, record_property):
    record_property("found", json.dumps(found[case]))
    check(*case, found=found[case])


def check(kind, setting, precision, *loud, found):
    assert "problem" not in found, found["problem"]
    if kind == "half":
        assert not worse(found)
        return
    if kind == "golden":
        assert found["evaluated"] < GOLDEN_LOGITS[precision]
        if "gradients" not in found:  # nothing is trained
            return
        assert found["logits"] < GOLDEN_LOGITS[precision]
        assert found["loss"] < GOLDEN_LOSS[precision]
        assert found["gradients"] > GRADIENTS[precision]
    if kind == "step":
        jumps = precision != "fp32" and setting in JUMPS
        assert found["logits"] < LOGITS[precision]
        assert found["evaluated"] < (0.1 if jumps else LOGITS[precision])
        assert found["gradients"] > (0.98 if jumps else GRADIENTS[precision])
    if kind == "run":
        assert found["codes"] == [0, 130, 0, 0]
        assert found["same"], "a resumed run ends with other prompts"
        assert len(set(found["accuracy"])) == 1
        assert (found["deterministic"], found["cuBLAS"]) == (True, ":4096:8")
        assert len(set(found["scaler"])) == 1
        assert found["probabilities"] < 1e-3
        waits = [wait for wait in found["predict waits"] if not wait.endswith(" main")]
        own = [i for i, wait in enumerate(waits) if wait.endswith(" probabilities")]
        assert own == [len(waits) - 2, len(waits) - 1], waits
        # in the first batch a teacher may encode its sentences, and kernels are compared once
        once = ("/encoders/text.py", "/transport/")
        assert all(any(place in wait for place in once) for wait in waits[: own[0]]), waits
    else:
        check_waits(precision, found["waits"])


def check_waits(precision, waits):
    """Check that the host waits in a step for GradScaler only."""
    assert [wait.split(":")[0] for wait in waits] == [SCALER] * (precision != "fp32"), waits
