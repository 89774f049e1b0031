"""Several ranks compute the same losses, gradients and logits as one process."""

import pytest
import rank_steps
import torch
from rank_steps import OWN, all_steps
from torchrun import torchrun

from trainers.prompting.running import ranks

pytestmark = pytest.mark.processes


@pytest.mark.slow
def test_losses_gradients_and_logits_are_those_of_one_process(tmp_path):
    wanted = all_steps()
    done = torchrun(3, rank_steps.__file__, str(tmp_path / "found"))
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "found")
    assert found.keys() == wanted.keys() >= {OWN}
    for method, expected in wanted.items():
        assert found[method].keys() == expected.keys()
        for what, value in expected.items():
            difference = (found[method][what] - value).abs().max().item()
            size = max(1.0, value.abs().max().item())  # rounding grows with the summands
            assert difference < 2e-5 * size, f"{method}, {what}: {difference}"


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(7, 3, [3, 2, 2]), (6, 3, [2, 2, 2]), (2, 3, [2, 2, 2])]
)
def test_shares(monkeypatch, n, size, sizes):
    monkeypatch.setattr(ranks._WORLD, "size", size)
    shares = [range(n)[ranks.share(n, rank)] for rank in range(size)]
    assert [len(share) for share in shares] == sizes and ranks.largest(n) == sizes[0]
    assert [row for share in shares for row in share] == (
        list(range(n)) if n >= size else [0, 1] * 3
    )
