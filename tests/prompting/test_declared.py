"""Unusual attributes of the classes of methods, and the classes of public checkpoints."""

import pytest
from golden_files import node_of, read
from paths import GOLDEN

from trainers.prompting import build_method
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS

# The value of an attribute that is not the usual one, and the methods that have it.
DECLARED = {
    "trains": (
        False, "BoostAdapter CTPT CrossModal DPE GDA LPPlusPlus LinearProbe MTA OTPT RTPT StatA "
        "TDA TPS TPT TTC TipAdapter TransCLIP ZERO ZeroshotCLIP",
    ),
    "joint": (False, "GDA MTA StatA TPS TransCLIP ZERO"),
    "stream": (True, "BoostAdapter DPE TDA"),
    "unlabelled": (True, "PromptKD"),
    "single": (False, "ALIGN MMP PLOT"),
    "trains_on_support": (True, "CLAP ProLIP"),
    "patches": (True, "PLOT"),
    "own_classes": (True, "GDA MMRL MMRLpp"),
    "test_augmix": (True, "DPE TDA"),
    "views": (2, "CoPrompt"),
    "support_passes": (1, "LPPlusPlus LinearProbe"),
    "class_bound": (
        True, "CLAP CrossModal LPPlusPlus LinearProbe SOTGLP TaskRes TipAdapter TipAdapterF",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_unusual_about_methods(name):
    value, methods = DECLARED[name]
    found = {own for own, kind in METHODS.items() if getattr(kind, name, None) is value}
    assert found & {*OWN} == {*methods.split()}


OWN = [name for name, kind in METHODS.items() if kind.__module__.startswith("trainers.prompting.")]


@pytest.mark.parametrize(
    ("task", "half", "dataset", "is_own"),
    [
        ("FS", "all", "EuroSAT", True),
        ("B2N", "base", "EuroSAT", True),
        ("B2N", "new", "EuroSAT", False),
        ("B2N", "all", "ImageNet", False),
        ("CD", "all", "ImageNet", True),
        ("CD", "base", "EuroSAT", False),
    ],
)
def test_whose_classes_a_public_checkpoint_of_mmrl_has(tiny_clip, task, half, dataset, is_own):
    golden = read(GOLDEN / "mmrl.safetensors")
    node, names = node_of(golden, TASK=task, SUBSAMPLE_CLASSES=half), golden.meta["classnames"]
    method = build_method("MMRL", node, tiny_clip, names, dataset)
    method.load_checkpoint(Saved.of({"state_dict": golden.params}), names)
    assert method.own_classes == is_own
