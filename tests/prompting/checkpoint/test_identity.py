"""What makes two runs the same: the roles of keys, and what differs between two runs."""

import subprocess
import sys

import pytest
from dassl.config import get_cfg_default
from paths import ROOT

from recipe.settings import _defaults
from trainers.prompting import UserError
from trainers.prompting.building.config import _places
from trainers.prompting.checkpoint.identity import (
    Identity,
    differences,
    identity,
    in_words,
    leaves,
    read_run,
    run_in,
    write_run,
)
from trainers.prompting.checkpoint.keys import KEYS, role_of
from trainers.prompting.method import METHODS

COOP = ["DATASET.SUBSAMPLE_CLASSES"]  # which CoOp's train.py adds, besides nodes of methods
ROLES = {"training", "test", "data", "machine", "place"}


def test_every_key_has_a_role():
    known = {*dict(leaves(get_cfg_default())), *dict(leaves(_defaults())), *COOP}
    known -= _places().keys()  # of methods
    assert known - KEYS.keys() == set(), "give these a role, one line each"
    assert {key.role for key in KEYS.values()} == ROLES
    assert role_of("TRAINER.COOP.N_CTX") == "settings" and role_of("NEW.KEY") == "training"
    assert role_of("TEST.FINAL_MODEL") == "training"  # best_val validates after each epoch


def test_defaults_are_those_of_dassl():
    for place, value in leaves(get_cfg_default()):
        assert KEYS[place].default == value, place


def test_it_needs_neither_pytorch_nor_yacs():
    code = "import sys, trainers.prompting.checkpoint.identity; sys.exit('torch' in sys.modules or "
    code += "'yacs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def of_cfg(method="CoOp", data=None, clip=None, **changes):
    cfg = _defaults()
    cfg.TRAINER.NAME = method
    cfg.merge_from_list([x for k, v in changes.items() for x in (k.replace("__", "."), v)])
    return identity(cfg, METHODS.get(method), data, clip)


def test_an_identity_has_what_its_method_reads_and_no_more(tmp_path):
    found = of_cfg(TRAINER__COOP__N_CTX=4, LOSS__T=2.0)
    assert found.settings["TRAINER.COOP.N_CTX"] == 4 and found.value("OPTIM.LR") == 0.0003
    assert found.settings["TRAINER.COOP.PREC"] == METHODS["CoOp"].defaults["PREC"]  # not None
    assert not [place for place in found.keys if "MAPLE" in place.upper()]
    assert found.training.keys().isdisjoint({"OUTPUT_DIR", "USE_CUDA", "TEST.SPLIT"})
    assert of_cfg("ProGrad", LOSS__T=2.0).settings["LOSS.T"] == 2.0
    write_run(tmp_path, run=found._asdict())
    write_run(tmp_path, launch={"seed": 1})
    assert run_in(tmp_path, "") == found and read_run(tmp_path, "")["launch"] == {"seed": 1}
    assert run_in(tmp_path / "none", "") is None


DATA = {"fingerprint": "a", "DATASET.ROOT": "/x", "classes": ["ant", "bee"]}
CLIP = {"name": "/x/clip.pt", "sha256": "1" * 64}


@pytest.mark.parametrize(
    ("one", "other", "texts"),
    [
        ({"training": {"OPTIM.LR": 0.1}}, {"training": {"OPTIM.LR": 0.1}}, []),
        ({"training": {"OPTIM.LR": 0.1}}, {"training": {"SEED": 1}}, []),
        ({"settings": {"LOSS.T": 1.0}}, {"training": {"LOSS.T": 2.0}},
         ["LOSS.T is 1.0 here and 2.0 there"]),
        ({"data": DATA}, {"data": DATA | {"DATASET.ROOT": "/y"}}, []),
        ({"data": DATA | {"fingerprint": None}},
         {"data": DATA | {"fingerprint": None, "DATASET.ROOT": "/y"}},
         ["DATASET.ROOT is '/x' here and '/y' there"]),
        ({"data": DATA}, {"data": DATA | {"fingerprint": "b"}},
         ["the images' hash is 'a' here and 'b' there"]),
        ({"data": DATA}, {"data": DATA | {"classes": ["ant", "cow"]}},
         ["class 1 is 'bee' here and 'cow' there"]),
        ({"data": DATA}, {"data": DATA | {"classes": ["ant"]}},
         ["the number of classes is 2 here and 1 there", "class 1 is 'bee' here and none there"]),
        ({"data": {"division": {"train a": "1"}}}, {"data": {"division": {"train b": "1"}}},
         ["images of train a is '1' here and none there",
          "images of train b is none here and '1' there"]),
        ({"clip": CLIP}, {"clip": CLIP | {"name": "/y/other.pt"}}, []),
        ({"clip": CLIP}, {"clip": {"name": "/y/clip.pt", "sha256": None}}, []),
        ({"clip": CLIP}, {"clip": {"name": "RN50", "sha256": None}},
         ["the CLIP is clip.pt here and RN50 there"]),
        ({"clip": CLIP}, {"clip": CLIP | {"sha256": "2" * 64}},
         ["other weights of '/x/clip.pt': SHA-256 11111111..., now 22222222..."]),
        ({"earlier": {"teacher": "1" * 64}}, {"earlier": {"teacher": "2"}},
         ["the teacher is '111111111111' here and '2' there"]),
        ({"method": "CoOp"}, {"method": "VPT"}, ["the method is 'CoOp' here and 'VPT' there"]),
    ],
)  # fmt: skip
def test_what_differs_between_two_runs(one, other, texts):
    assert differences(Identity(**one), Identity(**other)) == texts
    assert len(differences(Identity(**other), Identity(**one))) == len(texts)


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"run": []}', '{"run": {"method": 1}}', '{"run": {"a": 1}}',
     '{"run": {"clip": {"sha256": 1}}}', '{"run": {"clip": "x"}}'],
)  # fmt: skip
def test_what_does_not_say_its_run_is_one_sentence(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="run again"):
        run_in(tmp_path, "run again")


@pytest.mark.parametrize(
    ("place", "value"),
    [("SEED", "x"), ("DATASET.NAME", 5), ("OPTIM.LR", "0.1"), ("INPUT.TRANSFORMS", 7)],
)
def test_a_value_of_another_type_is_one_sentence(tmp_path, place, value):
    write_run(tmp_path, run=Identity(training={place: value})._asdict())
    with pytest.raises(UserError, match=f"has {value!r} for the setting {place}, .*: run again"):
        run_in(tmp_path, "run again")
    one = Identity(training={"SEED": None, "OPTIM.LR": 1, "INPUT.TRANSFORMS": [], "NEW.KEY": "x"})
    write_run(tmp_path, run=one._asdict())
    assert run_in(tmp_path, "") == one


def test_many_differences_are_cut_short_and_roots_are_whole(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    one, other = (Identity(training={f"A{k}": x for k in range(10)}) for x in (1, 2))
    assert in_words(differences(one, other)).endswith("A7 is 1 here and 2 there; and 2 more")
    cfg = _defaults()
    assert identity(cfg).value("DATASET.ROOT") == ""  # the embedded images lie elsewhere
    cfg.DATASET.ROOT = "data"
    assert identity(cfg).value("DATASET.ROOT") == str(tmp_path / "data")
