"""The protocols on files of features: a data set's own, --features, and --features auto."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from feature_files import write
from paths import GOLDEN, ROOT

from benchmark.__main__ import main
from benchmark.launch import auto_features
from benchmark.launch.arguments import build_parser, parse
from benchmark.launch.command import plan_runs
from benchmark.launch.data import fingerprint_at, other_features
from benchmark.launch.engine import Engine, command
from benchmark.protocols import PROTOCOLS
from benchmark.protocols.launches import write_launch
from trainers.prompting import UserError
from trainers.prompting.embedded import file_sha256
from trainers.prompting.storage.features import read_features
from trainers.prompting.storage.files import hold_lock

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
    assert other_features({"features": own}, str(file)) is None
    assert other_features({}, "") is None and other_features({"features": None}, "") is None
    assert other_features({"features": own}, "").endswith("not images")
    assert other_features({}, str(file)) == f"images, not {file}"
    assert other_features({"features": "0" * 64}, str(file)).startswith("features 00000000...")


def test_a_finished_run_is_skipped_until_its_features_change(tmp_path):
    file = Path(shutil.copy(RN50, tmp_path / "a.safetensors"))
    words = ["whurs19", "--output", str(tmp_path / "out"), "--features", str(file)]
    runs, settings = plan(*words, "--trainers", "ZeroshotCLIP")
    (run,) = runs
    run.folder.mkdir(parents=True)
    record = {
        "trainer": "ZeroshotCLIP", "dataset": "WHURS19", "seed": 1, "shots": 0, "split": "test",
        "subsample_classes": "all", "accuracy": 71.2, "features": file_sha256(file),
        "config": {"MODEL": {"BACKBONE": {"NAME": "RN50"}}},
    }  # fmt: skip
    (run.folder / "results.json").write_text(json.dumps(record))
    write_launch(run, None, ())
    assert not Engine(runs, settings).todo
    write(file, seed=1)
    with pytest.raises(UserError, match=r"the results of another run .features [0-9a-f]{8}"):
        Engine(runs, settings)


AUTO = ("--features", "auto")
TINY = GOLDEN / "tiny_clip_seed0.safetensors"


@pytest.fixture
def inside(monkeypatch):
    """Write the files in this process, and return a list of the commands that wrote them."""
    written = []

    def run(words, **_):
        written.append(words[words.index("features") :])
        return subprocess.CompletedProcess(words, main(written[-1]))

    monkeypatch.setattr(auto_features, "subprocess", SimpleNamespace(run=run))
    return written


def own_images(tmp_path, clip, *more):
    words = ["image_folder=mine", "--root", str(tmp_path / "images"), "--backbone", str(clip)]
    words += [*AUTO, "--output", str(tmp_path / "out")]
    return plan(*words, *(more or ["--trainers", "CLAP"]))


def test_a_file_is_written_once_and_again_when_it_does_not_fit(tmp_path, inside):
    images = tiny.write_halves(tmp_path / "images" / "mine")
    clip = shutil.copy(TINY, tmp_path / "clip.safetensors")
    runs, settings = own_images(tmp_path, clip)
    (file,) = settings.features.values()
    assert file == str(tmp_path / "out" / "features" / "image_folder=mine_clip.safetensors")
    assert runs[0].config == "features@clip" and "--backbone" not in command(runs[0], settings)
    assert command(runs[0], settings)[-2:] == ["DATASET.FEATURES", file]
    auto_features.write_lacking(runs, settings)
    found = read_features(file)
    assert found.clip == str(clip) and len(found.label) == 50
    auto_features.write_lacking(runs, settings)
    assert len(inside) == 1
    next(images.rglob("*.png")).unlink()
    auto_features.write_lacking(runs, settings)
    assert len(inside) == 2 and len(read_features(file).label) == 49
    with open(clip, "ab") as weights:
        weights.write(b" ")
    assert not auto_features._fits("image_folder=mine", str(images), settings)
    unknown = f"{fingerprint_at('image_folder=mine', str(images))} None"
    write(file, header={"made_of": unknown})  # of a CLIP whose hash was not known
    assert auto_features._fits("image_folder=mine", str(images), settings)
    with open(file, "wb"):
        pass  # damaged
    assert not auto_features._fits("image_folder=mine", str(images), settings)


@pytest.mark.slow
def test_runs_with_the_embedded_clip(tmp_path, inside, capfd):
    words = ["few_shot", "emoji_food", "--features", "auto", "--backbone", "emoji"]
    words += ["--trainers", "ZeroshotCLIP TipAdapter", "--shots", "1", "--seeds", "1"]
    words += ["--jobs", "1", "--output", str(tmp_path)]
    assert main([*words, "--dry-run"]) == 0 and not (tmp_path / "features").exists()
    assert main(words) == 0
    assert "TipAdapter" in capfd.readouterr().out
    file = tmp_path / "features" / "emoji_food_emoji.safetensors"
    assert len(list(tmp_path.rglob("results.json"))) == 2
    assert [words[1] for words in inside] == ["emoji_food"]
    file.unlink()  # finished runs do not need it
    assert main(words) == 0 and not file.exists()


def test_the_writer_knows_the_plug_ins(tmp_path, inside):
    tiny.write_halves(tmp_path / "images" / "mine")
    plugin = str(ROOT / "examples" / "dept.py")
    auto_features.write_lacking(
        *own_images(tmp_path, TINY, "--trainers", "CLAP", "--plugin", plugin)
    )
    (words,) = inside
    assert words[words.index("--plugin") + 1] == plugin


def test_records_are_compared_by_the_file(tmp_path, inside):
    tiny.write_halves(tmp_path / "images" / "mine")
    runs, settings = own_images(tmp_path, TINY)
    assert list(Engine(runs, settings).todo) == runs
    assert other_features({"features": "0" * 64}, settings.features["image_folder=mine"]) is None


@pytest.mark.parametrize("name, more, why", [
    ("CoOp", [], "CoOp does not run on features: leave --features auto out, or choose among CLAP"),
    ("MTA", [], "MTA does not run on features"),
    ("CLAP", ["TRAINER.ADAPTER.CONSTRAIN", "no"], "TRAINER.ADAPTER has no 'CONSTRAIN'"),
])  # fmt: skip
def test_methods_and_keys_are_checked_before_anything_is_written(tmp_path, inside, name, more, why):
    runs, settings = plan(
        "emoji_food",
        "--backbone",
        "emoji",
        "--output",
        str(tmp_path),
        *AUTO,
        "--trainers",
        name,
        *more,
    )
    with pytest.raises(UserError, match=why) as caught:
        auto_features.write_lacking(runs, settings)
    assert not inside and not (tmp_path / "features").exists()
    listed = str(caught.value).partition("choose among ")[2].split(", ")
    assert not {"MTA", "TPS", "TPT", "ZERO"} & {*listed}


def test_another_command_writes(tmp_path, inside):
    words = ["emoji_food", "--backbone", "emoji", "--output", str(tmp_path)]
    runs, settings = plan(*words, *AUTO, "--trainers", "CLAP")
    (tmp_path / "features").mkdir()
    with hold_lock(tmp_path / "features" / ".lock") as free:
        assert free
        with pytest.raises(UserError, match=f"Another command writes to '{tmp_path}/features'"):
            auto_features.write_lacking(runs, settings)


@pytest.mark.slow
def test_a_writer_that_fails_ends_the_command(tmp_path, capfd):
    words = ["dtd", "--root", str(tmp_path), "--backbone", str(TINY), "--output", str(tmp_path)]
    runs, settings = plan(*words, *AUTO, "--trainers", "CLAP")
    with pytest.raises(SystemExit) as ended:
        auto_features.write_lacking(runs, settings)
    assert ended.value.code == 2
    assert "DescribableTextures was looked for in" in capfd.readouterr().err
