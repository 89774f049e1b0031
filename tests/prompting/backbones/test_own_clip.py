"""The example of a CLIP of one's own, smaller."""

import runpy

import pytest
from paths import ROOT

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")


def test_the_example_runs_with_its_own_modules():
    example = runpy.run_path(str(ROOT / "examples" / "biomedclip.py"))
    logits = example["main"]("test_vit", **example["SMALL"], intermediate_size=64)
    assert logits.shape == (2, 3) and logits.isfinite().all()
