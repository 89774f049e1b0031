"""Runs of a plug-in check its method once for its code and keys, and say so."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tiny
from cases import slow_but
from dassl.config import get_cfg_default
from paths import ROOT

import train
from trainers.prompting.building.config import add_nodes
from trainers.prompting.conformance import stamp
from trainers.prompting.conformance.checks import CHECKS
from trainers.prompting.conformance.data_sets import PRINT_SET, other_seed, run_python
from trainers.prompting.plugins import load_plugins

CODE = """
from dataclasses import dataclass
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp

@register
class {name}(CoOp):
    node = "{node}"

    @dataclass(frozen=True)
    class Settings(CoOp.Settings):
        UNREAD: float = 1.0

    def logits(self, image, text):
        return {logits}
"""
SOUND = "super().logits(image, text)"


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Return the methods that were checked; stamps are of this test."""
    methods, check = [], stamp._say
    monkeypatch.setattr(stamp, "STAMPS", tmp_path / "stamps")
    few = [check for check in CHECKS if check.__name__ in ("check_scores", "check_seeds")]
    monkeypatch.setattr(stamp, "CHECKS", few)  # for time
    monkeypatch.setattr(
        stamp, "_say", lambda name, which, run: methods.append(which) or check(name, which, run)
    )
    return methods


def write(folder, name, logits=SOUND, comment=""):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name.lower()}_plugin.py"
    path.write_text(CODE.format(name=name, node=name.upper(), logits=logits) + comment)
    return path


def run(tmp_path, path, name, *pairs, output="output"):
    flags = ["--plugin", str(path)]
    place = f"TRAINER.{name.upper()}"
    more = [f"{place}.N_CTX", "4", f"{place}.PREC", "fp32", *pairs]
    arguments = tiny.arguments(tmp_path, name, tmp_path / output, 1, *flags)
    return train.run([*arguments, *more])


def record(tmp_path, output="output"):
    return json.loads((tmp_path / output / "results.json").read_text())


def test_a_plug_in_is_checked_once(tmp_path, checked, capsys, monkeypatch):
    """Not by seed or shots; anew for other keys, which changes nothing in the run."""
    path = write(tmp_path / "plug", "Once")
    assert run(tmp_path, path, "Once", "SEED", "2", "DATASET.NUM_SHOTS", "2", output="a") == 0
    assert "Once: checked on the embedded CLIP with the run's keys" in capsys.readouterr().out
    assert run(tmp_path, path, "Once", output="b") == 0
    assert checked == ["the run's keys"]
    monkeypatch.setattr(stamp, "CHECKS", CHECKS)
    assert run(tmp_path, path, "Once", "TRAINER.ONCE.UNREAD", "2.0", output="c") == 0
    assert len(checked) == 2
    assert "Note: No code of Once reads its key UNREAD" in capsys.readouterr().out
    first, second, third = (record(tmp_path, output) for output in "abc")
    assert {x["checked"] for x in (first, second, third)} == {"with the run's keys"}
    assert second["losses"] == third["losses"] and second["accuracy"] == third["accuracy"]


def test_a_mistake_refuses_each_run(tmp_path, checked, capsys):
    path = write(tmp_path / "plug", "Probable", "super().logits(image, text).softmax(1)")
    for output in ("a", "b"):
        assert run(tmp_path, path, "Probable", output=output) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "return them before softmax" in said and "check-method Probable" in said
        assert not (tmp_path / output / "results.json").exists()
    assert len(checked) == 2


def cfg_of(name, *plugins):
    """Return the cfg of a run of a method with these plug-ins."""
    load_plugins(map(str, plugins))
    cfg = get_cfg_default()
    add_nodes(cfg)
    cfg.TRAINER.NAME, cfg.TRAINER.PLUGINS = name, [*map(str, plugins)]
    cfg.DATASET.NAME, cfg.OPTIM.NAME, cfg.INPUT.TRANSFORMS = "TinyColours", "sgd", ["normalize"]
    return cfg


@pytest.mark.parametrize("beside", ["", "TRAINER: {DEEP: {N_CTX: 2}}", None])
def test_keys_that_do_not_fit_the_embedded_clip(tmp_path, checked, capsys, beside, monkeypatch):
    """Those of emoji.yaml beside the plug-in are taken, or the defaults, or none that fits."""
    path = write(tmp_path / "plug", "Deep")
    if beside:
        (tmp_path / "plug" / "Deep").mkdir()
        (tmp_path / "plug" / "Deep" / "emoji.yaml").write_text(beside)
    tried, build = [], stamp.ShortRun

    def refused(cfg):
        tried.append(cfg.TRAINER.DEEP.N_CTX)
        if cfg.TRAINER.DEEP.N_CTX == 4 or beside is None:
            raise ValueError("deeper than the CLIP")
        return build(cfg)

    monkeypatch.setattr(stamp, "ShortRun", refused)
    cfg = cfg_of("Deep", path)
    cfg.TRAINER.DEEP.N_CTX = 4
    found, said = stamp.check_once(cfg), capsys.readouterr().out
    assert "Deep was not checked, as on the embedded CLIP: ValueError deeper than" in said
    assert tried == ([4, 2] if beside else [4, 16])
    if beside is None:
        assert found.startswith("not checked: ValueError") and not checked
    else:
        assert "The config of Deep" in said
        assert found == f"with {'emoji.yaml' if beside else 'its default keys'}"


def test_built_in_methods_are_not_checked(tmp_path, checked):
    path = write(tmp_path / "plug", "Other")
    assert stamp.check_once(cfg_of("CoOp")) is None
    assert stamp.check_once(cfg_of("CoOp", path)) is None and not checked


DATA = """
from dassl.data.datasets import DATASET_REGISTRY, Datum

from datasets import ImageDataset
from datasets.splits import divide


@DATASET_REGISTRY.register()
class {name}(ImageDataset):
    dataset_dir, image_dir = "", ""

    @classmethod
    def make_split(cls, folder):
        files = sorted(folder.glob("tiny_colours/*.png"))
        names = {names}({{path.name.split("_")[1] for path in files}})
        number = {{name: {number} for k, name in enumerate(names)}}
        return divide([
            Datum(str(path), number[path.name.split("_")[1]], 0, path.name.split("_")[1])
            for path in files
        ])
"""
SPLITS = {  # how names are numbered
    "Sorted": ("sorted", "k", ""),
    "OfASet": ("list", "k", "numbers its classes otherwise in another process"),
    "OfTexts": ("sorted", "str(k)", "number the classes from 0"),
}


@pytest.mark.parametrize("name", slow_but(SPLITS, "OfASet"))  # each starts a process
def test_the_split_of_a_data_set(tmp_path, checked, capsys, name):
    names, number, said = SPLITS[name]
    arguments = tiny.arguments(tmp_path, "CoOp", None, 1)
    tiny.TinyColours(SimpleNamespace(DATASET=SimpleNamespace(ROOT=tmp_path, NUM_SHOTS=-1)))
    path = tmp_path / f"{name.lower()}_plugin.py"
    path.write_text(DATA.format(name=name, names=names, number=number))
    code = train.run([*arguments, "DATASET.NAME", name, "TRAINER.PLUGINS", f"['{path}']"])
    assert code == (2 if said else 0)
    if said:
        assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_set_of_two_names_has_the_other_order_in_the_other_process():
    for letter in "abcdefgh":  # of any other seed, half of them would have the same
        pair = [f"class {letter}", "land"]
        other = run_python(other_seed(pair), ["-S", "-c", PRINT_SET, *pair]).stdout.strip()
        assert other in {str(pair), str(pair[::-1])} - {str([*set(pair)])}, (other, pair)


ALONE = """
from dassl.config import get_cfg_default
from trainers.prompting import extend_cfg
from trainers.prompting.conformance import stamp
from trainers.prompting.plugins import load_plugins

stamp.STAMPS, stamp.SECONDS = stamp.Path("stamps"), float("inf")
load_plugins(["lonely_plugin.py"])
cfg = get_cfg_default()
extend_cfg(cfg)
cfg.TRAINER.NAME, cfg.TRAINER.PLUGINS = "Lonely", ["lonely_plugin.py"]
cfg.DATASET.NAME, cfg.OPTIM.NAME = "OneOfEach", "sgd"
print(stamp.check_once(cfg))
"""


@pytest.mark.slow
@pytest.mark.processes
def test_only_the_package_is_needed(tmp_path):
    """No config files, data sets or launcher are there."""
    write(tmp_path / "alone", "Lonely")
    (tmp_path / "alone" / "trainers").mkdir()
    (tmp_path / "alone" / "trainers" / "prompting").symlink_to(ROOT / "trainers" / "prompting")
    path = os.pathsep.join([str(tmp_path / "alone"), str(ROOT / "dassl-lite")])
    done = subprocess.run(
        [sys.executable, "-c", ALONE], cwd=tmp_path / "alone", capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": path, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "with the run's keys", done.stdout
