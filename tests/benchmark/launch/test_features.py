"""The protocols on files of features: a data set's own, and those of --features."""

import json
import shutil
from pathlib import Path

import pytest
from feature_files import write
from paths import ROOT

from benchmark.launch.arguments import build_parser, parse
from benchmark.launch.command import plan_runs
from benchmark.launch.data import Present, present
from benchmark.launch.engine import Engine, command
from benchmark.protocols import PROTOCOLS
from benchmark.protocols.launches import write_launch
from benchmark.records import asked_of, misfit
from trainers.prompting import UserError
from trainers.prompting.embedded import file_sha256

FEW_SHOT = PROTOCOLS["few_shot"]
RN50 = ROOT / "assets" / "whurs19_rn50.safetensors"


def plan(*words):
    return plan_runs(
        FEW_SHOT, parse(build_parser(FEW_SHOT), [*words, "--shots", "1", "--seeds", "1"])
    )


def test_a_data_set_has_its_own_file_and_methods(tmp_path):
    runs, settings = plan("whurs19", "--output", str(tmp_path))
    methods = ["ZeroshotCLIP", "TipAdapter", "TipAdapterF", "CLIPAdapter", "CLAP", "TaskRes"]
    assert [run.trainer for run in runs] == methods
    assert {run.config for run in runs} == {"features"}
    assert settings.features_of(runs[0]) == str(ROOT / "assets/whurs19_vit_b_32.safetensors")
    assert "DATASET.FEATURES" not in command(runs[0], settings)
    assert "MODEL.BACKBONE.NAME" not in settings.expected_values(runs[1])
    assert [run.trainer for run in plan("emoji")[0]] == ["ZeroshotCLIP", "CoOp", "MaPLe", "ALIGN"]
    named = plan("whurs19", "--trainers", "CLAP")[0]
    assert [run.trainer for run in named] == ["CLAP"]


def test_another_file_has_folders_of_its_name(tmp_path):
    words = ["whurs19", "--output", str(tmp_path), "--trainers", "CLAP", "--features", str(RN50)]
    (run,), settings = plan(*words)
    assert run.config == "features@whurs19_rn50"
    assert command(run, settings)[-2:] == ["DATASET.FEATURES", str(RN50)]
    (run,), _ = plan(*words, "--config", "few_shot")
    assert run.config == "few_shot@whurs19_rn50"


def test_a_record_of_other_features_is_of_another_run(tmp_path):
    file = write(tmp_path / "a.safetensors")
    own = file_sha256(file)
    (run,), _ = plan("whurs19", "--output", str(tmp_path), "--trainers", "ZeroshotCLIP")

    def why(features, file):
        result = {"trainer": run.trainer, "features": features}
        return misfit(result, present(asked_of(run), run, result, str(file), None, Present()))

    assert why(own, file) is why(None, "") is why(own, tmp_path / "gone.safetensors") is None
    assert why(own, "") == f"DATASET.FEATURES is '{own[:12]}' here and '' there"
    assert why(None, file) == f"DATASET.FEATURES is '' here and '{own[:12]}' there"
    assert why("0" * 64, file).startswith("DATASET.FEATURES is '000000000000' here and '")


def test_a_finished_run_is_skipped_until_its_features_change(tmp_path):
    file = Path(shutil.copy(RN50, tmp_path / "a.safetensors"))
    words = ["whurs19", "--output", str(tmp_path / "out"), "--features", str(file)]
    runs, settings = plan(*words, "--trainers", "ZeroshotCLIP")
    (run,) = runs
    run.folder.mkdir(parents=True)
    record = {
        "trainer": "ZeroshotCLIP", "dataset": "WHURS19", "seed": 1, "shots": 0, "split": "test",
        "subsample_classes": "all", "accuracy": 71.2, "features": file_sha256(file),
        "backbone": "RN50",
    }  # fmt: skip
    (run.folder / "results.json").write_text(json.dumps(record))
    write_launch(run)
    assert not Engine(runs, settings).todo
    write(file, seed=1)
    with pytest.raises(UserError, match=r"of another run .DATASET.FEATURES is '[0-9a-f]{12}'"):
        Engine(runs, settings)
