"""Every method on a pretend GPU: devices, half precision, and waits of the host for the device.

pretend.py explains the pretend GPU. The cases run in separate processes.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import PRECISIONS, SETTINGS
from half import worse
from pretend import build_guard

PROGRAM = Path(__file__).parent / "program.py"

# The cases of the quick test; the slow test tries the others.
FEW = {
    ("step", "KgCoOp", "fp16"),
    ("step", "MaPLe", "amp"),
    ("step", "ALIGN", "fp32"),
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
STEPS = {("step", setting, precision) for setting in SETTINGS for precision in PRECISIONS}
# Whole runs of methods that need more from a trainer than a step: own gradients, a mean over
# epochs, a text per image, parts, views, dropout, additions inside the encoders.
RUNS = {
    ("run", setting, "fp16")
    for setting in ("ProGrad", "PromptSRC", "CoCoOp", "TCP", "CoPrompt", "CLIPLoRA",
                    "MMRL", "ALIGN")
}  # fmt: skip
RUNS |= {("run", "ALIGN, released", "amp")}
ALL = (STEPS | RUNS | HALVES) - FEW

# Bounds against float32: the difference of logits, which spread over several units, and the cosine
# of gradients.
LOGITS = {"fp32": 2e-5, "fp16": 0.03, "amp": 0.03}
GRADIENTS = {"fp32": 0.99999, "fp16": 0.999, "amp": 0.999}
# Methods whose gradient jumps if rounding changes a sign (an L1 loss) or the nearest patch.
JUMPS = {"PromptSRC", "ALIGN, regularised", "ALIGN, nearest"}

SCALER = "trainers/prompting/step.py"  # GradScaler asks whether a step has overflowed


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    if torch.version.cuda or torch.version.hip:
        pytest.skip("the pretend GPU needs a PyTorch build without CUDA")
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
def few(guard, tmp_path_factory):
    return results(guard, tmp_path_factory.mktemp("few"), FEW)


@pytest.fixture(scope="module")
def rest(guard, tmp_path_factory):
    return results(guard, tmp_path_factory.mktemp("rest"), ALL)


@pytest.mark.parametrize("case", sorted(FEW, key=str), ids=str)
def test_a_few(few, case):
    check(*case, found=few[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(ALL, key=str), ids=str)
def test_the_rest(rest, case):
    check(*case, found=rest[case])


def check(kind, setting, precision, *loud, found):
    if kind == "half":
        assert not worse(found)
        return
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
        # in the first batch a teacher may encode its sentences, once
        assert all("/encoders/text.py" in wait for wait in waits[: own[0]]), waits
    else:
        check_waits(precision, found["waits"])


def check_waits(precision, waits):
    """Check that the host waits in a step only where docs/performance.md says so."""
    assert [wait.split(":")[0] for wait in waits] == [SCALER] * (precision != "fp32"), waits
