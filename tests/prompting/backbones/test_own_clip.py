"""The example of a CLIP of one's own, smaller."""

import importlib.util
import runpy
from types import SimpleNamespace

import pytest
import torch
from paths import ROOT

from trainers.prompting import UserError, from_module

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")


def test_the_example_runs_with_its_own_modules():
    example = runpy.run_path(str(ROOT / "examples" / "biomedclip.py"))
    logits = example["main"]("test_vit", **example["SMALL"], intermediate_size=64)
    assert logits.shape == (2, 3) and logits.isfinite().all()
    assert "python -m examples.biomedclip" in example["__doc__"]  # finds the packages, too
    assert importlib.util.find_spec("examples.biomedclip")


LETTERS = SimpleNamespace(sot_token_id=1, eot_token_id=2, decode=str, encode=lambda text: [3])
WRONG = {
    "another width": (
        {"embed_dim": 15}, r"`visual` of mine gives \(1, 16\) for one input, but embed_dim is 15",
    ),
    "a length": ({"context_length": "x"}, "mine has 'x' for context_length, where a whole number"),
    "another width of the text": (
        {"text": torch.nn.EmbeddingBag(29, 8)}, r"`text` of mine gives \(1, 8\) for one input",
    ),
    "a module that does not run": (
        {"visual": torch.nn.Linear(5, 16)}, r"`visual` of mine takes no input of shape \(1, 3, 8",
    ),
    "no module": ({"visual": torch.flatten}, "mine has no `visual`: give the model the modules"),
    "a scale for each": (
        {"logit_scale": torch.nn.Parameter(torch.ones(2))}, r"has logit_scale of shape \(2,\)",
    ),
    "a number": ({"logit_scale": 4.6}, "mine has no `logit_scale`"),
    "no tokenizer": ({"tokenizer": None}, "The tokenizer of mine is None: give one of"),
    "no preparation": ({"images": None}, "images of mine is None: give a dict"),
    "resizing": (
        {"images": {"resize_mode": "longest"}}, "has 'longest' for resize_mode, where one of sho",
    ),
    "one mean": ({"images": {"mean": 0.5}}, r"has \[0.5\] for image mean, where a list of three"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said(case):
    changes, said = WRONG[case]
    parts = {
        "visual": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16)),
        "text": torch.nn.EmbeddingBag(29, 16), "embed_dim": 16, "tokenizer": LETTERS, "images": {},
        "context_length": 16,
        "logit_scale": torch.nn.Parameter(torch.tensor(4.6)),
    } | changes  # fmt: skip
    model = torch.nn.Module()
    for part in ("visual", "text", "logit_scale"):
        setattr(model, part, parts[part])
    config = {
        "embed_dim": parts["embed_dim"],
        "vision_cfg": {"timm_model_name": "mine", "image_size": 8},
        "text_cfg": {"hf_model_name": "mine", "context_length": parts["context_length"]},
    }
    with pytest.raises(UserError, match=said):
        from_module(model, config, parts["tokenizer"], parts["images"], "mine")
