"""The solver does not use the precision of the program around it, and does not change it."""

import pytest
import torch

from trainers.prompting.full_precision import full_precision
from trainers.prompting.transport.solver import sinkhorn

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
