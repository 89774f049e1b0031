"""Half precision is at least as close to float32 as OpenAI's modules in half precision."""

import pytest
from half import CPU, compare, errors, exact, step, worse

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
