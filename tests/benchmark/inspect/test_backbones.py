"""Which methods run on which CLIPs: the command, its page, and all architectures of open_clip."""

import pytest
from paths import ROOT

from benchmark.__main__ import main
from benchmark.inspect import backbones
from trainers.prompting.backbones import openclip

open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
OUTSIDE = {  # texts whose config is on the hub only
    "xlm-roberta": "XLMRobertaConfig", "roberta": "RobertaConfig", "mt5": "MT5Config",
    "nllb": "M2M100Config",
}  # fmt: skip


LINES = (ROOT / "docs" / "backbones.md").read_text("utf-8").splitlines()
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in LINES if "|" in line]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Configs of text encoders that are on the hub, as transformers has them by default."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")

    def folder(name, arch):
        kind = next(kind for part, kind in OUTSIDE.items() if part in name)
        config = getattr(transformers, kind)()
        config.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    monkeypatch.setattr(openclip, "_encoder_folder", folder)


@pytest.mark.slow
def test_the_page_has_the_families_of_the_code(hub):
    """All architectures are built, so that names and shapes of those that are open agree."""
    found = {(image, text): int(n) for image, text, n, *_ in ROWS if n.isdecimal()}
    families = backbones.families()
    if len(open_clip.list_models()) == sum(found.values()):  # of the version that the page is for
        assert found == {sides: len(of) for sides, of in families.items()}
    else:
        assert found.keys() == families.keys()


def test_architectures_whose_config_is_not_here():
    for part in OUTSIDE:
        arch = next(arch for arch in open_clip.list_models() if part in arch)
        with pytest.raises(openclip.UserError, match="whose config.json is not on this machine"):
            openclip.without_weights(arch)


@pytest.mark.slow
def test_an_architecture_is_checked_without_its_weights(capsys):
    assert main(["info", "open_clip:MobileCLIP-S1"]) == 0
    first, run, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith("MobileCLIP-S1: image side closed") and "CoOp, " in run
    assert any(line.startswith("ALIGN, ") and "image side" in line for line in rest)
    assert main(["info", "emoji"]) == 0
    assert "no side closed" in capsys.readouterr().out
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
