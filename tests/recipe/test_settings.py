"""The cfg of a run, as the log shows it."""

import pytest

from recipe.configs import read_keys
from recipe.settings import build_cfg, cfg_text


@pytest.mark.parametrize(
    ("trainer", "there", "away"),
    [
        ("ALIGN", ["SINKHORN_TOL", "MEMORY_BUDGET"], ["COOP:", "MAPLE:", "DISTILL", "prograd"]),
        ("ProGrad", ["COOP:", "NAME: prograd"], ["SINKHORN_TOL", "MAPLE:", "DISTILL"]),
    ],
)
def test_only_the_settings_of_the_method_are_shown(trainer, there, away):
    files = "configs/datasets/emoji.yaml", f"configs/trainers/{trainer}/emoji.yaml"
    cfg = build_cfg([*((path, read_keys(path)) for path in files),
                     ("a flag", {"TRAINER.NAME": trainer})])  # fmt: skip
    text = cfg_text(cfg)
    assert all(word in text for word in there) and not any(word in text for word in away)
    assert all(word in str(cfg) for word in away)  # but they stay in the cfg
