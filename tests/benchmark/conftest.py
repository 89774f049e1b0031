"""Fixtures: a small checkout, refused commands, planned runs, and a plug-in with two methods."""

import numpy as np
import pytest
from checkout import Checkout
from outcomes import answer, columns, outcome

from benchmark.__main__ import main
from benchmark.protocols import (
    BASE2NEW,
    CROSS_DATASET,
    DOMAIN_GENERALIZATION,
    FEW_SHOT,
    SEVERAL_BASE2NEW,
    SEVERAL_LABELS,
    configs,
)
from benchmark.protocols.configs import TrainerConfigs
from benchmark.records import Outcome

PLUGIN = """
import torch
from torch import nn
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.methods.zeroshot_clip import ZeroshotCLIP

@register
class PluggedCoOp(CoOp):
    pass

@register
class PluggedShift(ZeroshotCLIP):
    trains = True

    def build(self, clip_model, classnames, dataset):
        self.shift = nn.Parameter(torch.zeros(self.width))

    def image_features(self, images, contexts):
        features = super().image_features(images, contexts)
        return features._replace(z=features.z + self.shift)
"""
NAMES = ("PluggedCoOp", "PluggedShift")


@pytest.fixture
def answered(tmp_path):
    """Return a function that makes the outcome of a run: the first `right` of n are right."""

    def make(trainer, seed, part, right, n=40, dataset="emoji", images="image", **more) -> Outcome:
        label = np.arange(n) % 3
        prediction = np.where(np.arange(n) < right, label, (label + 1) % 3)
        found = outcome(trainer, seed, part, 100 * right / n, dataset, **more)
        said = columns(label, prediction, images=images + "{:03}.png")
        return answer(found, tmp_path / found.run.folder, said)

    return make


@pytest.fixture
def checkout(tmp_path):
    """Return a small checkout with the real benchmark/ and scripts/, but a fake train.py."""
    return Checkout(tmp_path / "a checkout")


@pytest.fixture
def its_configs(checkout, monkeypatch):
    """Let this process read the config files of the checkout."""
    monkeypatch.setattr(configs, "CONFIGS", checkout.root / "configs")


@pytest.fixture
def refused(checkout, its_configs, monkeypatch, capsys):
    """A function that runs a command, checks that it is refused, and returns its output.

    The command runs in this process, which is faster than a new one.
    """
    monkeypatch.chdir(checkout.root)

    def refused(*words):
        try:
            code = main([*words])
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        assert code == 2, said.err
        assert not checkout.output.exists()
        return said

    return refused


@pytest.fixture
def planned(checkout, its_configs):
    """Return the runs of each protocol on the emoji sets, in the output of the checkout."""
    output, seeds = checkout.output, [1, 2]
    every = {"trainers": ["ZeroshotCLIP", "CoOp", "ALIGN"]}
    transfer = {"shots": 16, "source": "emoji"} | every
    asked = {
        BASE2NEW: (["emoji", "dtd"], {"trainers": ["ALIGN"], "shots": 4}),
        SEVERAL_LABELS: (["emoji"], every | {"shots": [-1], "known": ["0.5", "1"]}),
        SEVERAL_BASE2NEW: (["emoji"], every | {"shots": [2]}),
        FEW_SHOT: (["emoji"], every | {"shots": [1, 4]}),
        CROSS_DATASET: (["emoji_food", "emoji_animals"], transfer),
        DOMAIN_GENERALIZATION: (["emoji_food", "emoji_animals"], transfer),
    }
    return {
        protocol: protocol.plan(output, datasets, seeds, TrainerConfigs(), **options)
        for protocol, (datasets, options) in asked.items()
    }


@pytest.fixture
def plugged(tmp_path):
    """Return the path of a plug-in with two methods; one of them trains no prompts."""
    folder = tmp_path / "their work"
    folder.mkdir()
    (folder / "plugged.py").write_text(PLUGIN)
    for name in NAMES:
        (folder / name).mkdir()
        (folder / name / "base2new.yaml").write_text("MODEL: {BACKBONE: {NAME: ViT-B/16}}\n")
    return str(folder / "plugged.py")
