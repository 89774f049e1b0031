"""Which methods run on which CLIPs: the command, its page, and all architectures of open_clip."""

import re

import pytest
from paths import ROOT

from benchmark.__main__ import main
from benchmark.inspect import backbones
from trainers.prompting.backbones import openclip

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
OUTSIDE = ("roberta", "mt5", "nllb")  # texts whose config is on the hub only


LINES = (ROOT / "docs" / "backbones.md").read_text("utf-8").splitlines()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in LINES if "|" in line]


def test_the_page_has_the_families_of_the_code():
    found = {(image, text): int(n) for image, text, n, *_ in ROWS if n.isdecimal()}
    if len(open_clip.list_models()) == sum(found.values()):  # of the version that the page is for
        assert found == {sides: len(of) for sides, of in backbones.families().items()}
    else:
        assert found.keys() == backbones.families().keys()


@pytest.mark.slow
def test_an_architecture_is_checked_without_its_weights(capsys):
    assert main(["backbones", "--check", "open_clip:MobileCLIP-S1"]) == 0
    first, run, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("MobileCLIP-S1: image side closed") and "CoOp, " in run
    assert any(line.startswith("ALIGN, ") and "image side" in line for line in rest)
    assert main(["backbones", "--check", "emoji"]) == 0
    assert "no side closed" in capsys.readouterr().out
    assert main(["backbones", "--check", "open_clip:MobileCLIP-S9"]) == 2
    assert "did you mean 'MobileCLIP-S" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32-SigLIP2-256", "RN50"])
def test_sides_decide_what_runs(name):
    first, run, *rest = backbones.check_lines(f"open_clip:{name}")
    assert ("ALIGN" in run) == (name != "RN50") and "CoOp" in run and rest
    if name != "RN50":
        refused = sorted(", ".join(line.partition(":")[0] for line in rest).split(", "))
        for row in ROWS:
            if row[:2] in (["attention", "both"], ["mean", "both"]):
                assert row[-1] == f"all but {', '.join(refused)}"


def keys(arch):
    """Return how an architecture differs from others besides in sizes: its keys, timm's family."""
    config = open_clip.get_model_config(arch)
    timm = config["vision_cfg"].get("timm_model_name", "")
    return *config, *config["vision_cfg"], *config["text_cfg"], re.match("[a-z]*", timm)[0]


# the first of each
ARCHITECTURES = {keys(arch): arch for arch in reversed(open_clip.list_models())}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES.values())
def test_architectures_are_built_with_agreeing_names_and_shapes(arch):
    if any(part in arch for part in OUTSIDE):
        with pytest.raises(openclip.UserError, match="whose config.json is not on this machine"):
            openclip.without_weights(arch)
    else:
        assert openclip.without_weights(arch).width > 0
