"""Which methods run on which CLIPs: the command and its page."""

import pytest
from paths import ROOT

from benchmark.__main__ import main
from trainers.prompting.backbones import openclip

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
OUTSIDE = "xlm-roberta", "roberta", "mt5", "nllb"  # texts whose config is on the hub only

LINES = (ROOT / "docs" / "backbones.md").read_text("utf-8").splitlines()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in LINES if "|" in line]


def test_architectures_whose_config_is_not_here():
    for part in OUTSIDE:
        arch = next(arch for arch in open_clip.list_models() if part in arch)
        with pytest.raises(openclip.UserError, match="whose config.json is not on this machine"):
            openclip.without_weights(arch)


@pytest.mark.slow
def test_an_architecture_is_checked_without_its_weights(capsys):
    assert main(["info", "open_clip:MobileCLIP-S1"]) == 0
    first, run, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("MobileCLIP-S1: image side closed, text side both") and "CoOp, " in run
    assert any(line.startswith("ALIGN, ") and "image side" in line for line in rest)
    assert main(["info", "open_clip:MobileCLIP-S9"]) == 2
    assert "did you mean 'MobileCLIP-S" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32-SigLIP2-256", "RN50"])
def test_sides_decide_what_runs(name, capsys):
    assert main(["info", f"open_clip:{name}"]) == 0
    _, run, *rest = capsys.readouterr().out.splitlines()
    assert ("ALIGN" in run) == (name != "RN50") and "CoOp" in run and rest
    if name != "RN50":
        refused = sorted(", ".join(line.partition(":")[0] for line in rest).split(", "))
        for row in ROWS:
            if row[:2] == ["attention", "both"]:
                assert row[-1] == f"all but {', '.join(refused)}"
