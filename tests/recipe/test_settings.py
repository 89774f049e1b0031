"""Settings of a run: what its log shows, keys that its method does not read, bases of files."""

import pickle
from dataclasses import dataclass

import pytest
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from paths import ROOT
from tiny import results, run

import train
from benchmark.__main__ import main
from recipe.configs import merge, read_keys
from recipe.settings import build_cfg, cfg_text, changed_settings, effective
from trainers.prompting import UserError, extend_cfg, register
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp

EMOJI = ["--dataset-config-file", str(ROOT / "configs/datasets/emoji.yaml")]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A CoOp with a node of its own and a config file on top of CoOp's; returns that file."""

    monkeypatch.setattr(TRAINER_REGISTRY, "_objects", dict(TRAINER_REGISTRY._objects))

    @register
    class Renamed(CoOp):
        node = "RENAMED"

        @dataclass(frozen=True)
        class Settings(CoOp.Settings):
            WEIGHT: float = 1.0

    file = tmp_path / "Renamed" / "emoji.yaml"
    file.parent.mkdir()
    file.write_text("BASE: CoOp/emoji\nTRAINER: {RENAMED: {WEIGHT: 2.0}}\n")
    yield file
    del METHODS["Renamed"]


def cfg(trainer, file, *words, flags=()):
    words = ["--trainer", trainer, "--config-file", str(file), *EMOJI, *flags, *words]
    return train.setup_cfg(train.parse_args(words))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("TRAINER.COOP.N_CTX", "set TRAINER.RENAMED.N_CTX, or leave it out"),
        ("TRAINER.ALIGN.BETA", "leave it out"),
    ],
)
def test_on_a_command_line_they_are_refused(mine, tmp_path, capsys, key, hint):
    assert run(tmp_path, "Renamed", None, 1, extra=[key, "4"]) == 2
    assert capsys.readouterr().err == (
        f"error: The command line sets {key}, which Renamed does not read (its node is "
        f"TRAINER.RENAMED): {hint}\n"
    )
    assert not (tmp_path / "output").exists()
    assert cfg("Renamed", mine, key, "4", flags=["--shared"]).TRAINER.RENAMED.WEIGHT == 2


def test_keys_of_a_shared_node_that_only_another_method_reads(tmp_path, capsys):
    assert run(tmp_path, "CoOp", None, 1, extra=["TRAINER.COOP.W", "4"]) == 2
    assert "sets TRAINER.COOP.W, which CoOp does not read" in capsys.readouterr().err


def test_in_a_config_file_they_are_named_and_recorded(mine, tmp_path, capsys):
    file = tmp_path / "short.yaml"
    file.write_text("TRAINER: {COOP: {N_CTX: 2}, RENAMED: {WEIGHT: 1.0}, ALIGN: {M: 3}}\n")
    assert run(tmp_path, "Renamed", None, 1, "--config-file", str(file)) == 0
    said = capsys.readouterr().out
    assert (
        "warning: config files set TRAINER.ALIGN.M, TRAINER.COOP.N_CTX, which Renamed does not "
        "read: its node is TRAINER.RENAMED\n"
    ) in said
    record = results(tmp_path / "output")
    assert record["unread"] == ["TRAINER.ALIGN.M", "TRAINER.COOP.N_CTX"]
    assert main(["report", str(tmp_path / "output")]) == 0
    assert "TRAINER.ALIGN.M, TRAINER.COOP.N_CTX" in capsys.readouterr().out


def test_those_of_another_method_count_and_those_of_a_base_do_not(mine):
    assert cfg("Renamed", mine).TRAINER.UNREAD == []
    mine.write_text(mine.read_text().replace("TRAINER: {", "TRAINER: {COOP: {N_CTX: 2}, "))
    assert cfg("Renamed", mine).TRAINER.UNREAD == ["TRAINER.COOP.N_CTX"]
    of_align = cfg("CoOp", ROOT / "configs/trainers/ALIGN/emoji.yaml").TRAINER.UNREAD
    assert "TRAINER.ALIGN.N_CTX" in of_align
    assert cfg("CoOp", ROOT / "configs/trainers/CoOp/emoji.yaml").TRAINER.UNREAD == []


def test_keys_that_all_methods_read_are_shown_though_one_has_them_for_its_own():
    """PromptSRC has OPTIM.MAX_EPOCH among its keys."""
    file = ROOT / "configs/trainers/CoOp/emoji.yaml"
    two, three = (cfg("CoOp", file, "OPTIM.MAX_EPOCH", n, "SEED", "5") for n in "23")
    assert {"OPTIM.MAX_EPOCH: 3", "SEED: 5"} < {*changed_settings(three).splitlines()}
    assert effective(two) != effective(three)


@pytest.mark.parametrize(
    ("trainer", "there", "away"),
    [
        ("ALIGN", ["SINKHORN_TOL", "MEMORY_BUDGET"], ["COOP:", "MAPLE:", "DISTILL", "prograd"]),
        ("ProGrad", ["COOP:", "NAME: prograd"], ["SINKHORN_TOL", "MAPLE:", "DISTILL"]),
    ],
)
def test_only_the_settings_of_the_method_are_shown(trainer, there, away):
    files = "configs/datasets/emoji.yaml", f"configs/trainers/{trainer}/emoji.yaml"
    cfg = build_cfg([*((path, read_keys(path)) for path in files),
                     ("a flag", {"TRAINER.NAME": trainer})])  # fmt: skip
    text = cfg_text(cfg)
    assert all(word in text for word in there) and not any(word in text for word in away)
    assert all(word in str(cfg) for word in away)  # but they stay in the cfg


# ------------------------------------------------------------------ bases of config files


FILES = [ROOT / "configs" / "trainers" / f"{name}.yaml" for name in (
    "ALIGN/emoji", "ALIGN/cross_dataset", "TPT/cross_dataset"
)]  # fmt: skip


def write(folder, name, text):
    path = folder / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_keys_of_a_base_are_replaced_with_their_sections(tmp_path):
    write(tmp_path, "A/one", "OPTIM: {LR: 1, NAME: sgd}\nBY_SHOTS: {other: {OPTIM: {LR: 2}}}\n")
    write(tmp_path, "B/two", "BASE: A/one\nTRAINER: {B: {N: 1}}\n")
    path = write(tmp_path, "C/three", "BASE: B/two\nOPTIM: {LR: 3}\n")
    assert read_keys(path) == {"OPTIM.NAME": "sgd", "OPTIM.LR": 3, "TRAINER.B.N": 1}
    keys = read_keys(write(tmp_path, "Mine/emoji", "BASE: CoOp/emoji\nOPTIM: {LR: 0.5}\n"))
    assert keys["OPTIM.LR"] == 0.5 and keys["MODEL.BACKBONE.NAME"] == "emoji"  # of the repository


def test_a_file_copied_without_its_base(tmp_path):
    path = write(tmp_path, "Mine/x", "BASE: Their/few_shot\n")
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for read in (read_keys, lambda path: cfg.merge_from_file(str(path))):
        with pytest.raises(UserError, match="no such file .* copy Their/few_shot.yaml, too"):
            read(path)


def test_yacs_reads_bases_with_our_keys(tmp_path):
    """As train.py of other checkouts reads a file: merged, then cloned, frozen and pickled."""
    write(tmp_path, "A/one", "OPTIM: {LR: 1.0, NAME: sgd}\nTRAINER: {ALIGN: {M: 3}}\n")
    text = "BASE: A/one\nOPTIM: {LR: 3e-4}\nBY_SHOTS: {other: {OPTIM: {MAX_EPOCH: 2}}}\n"
    path = write(tmp_path, "B/two", text)
    cfg = get_cfg_default()
    extend_cfg(cfg)
    before = cfg.clone()
    extend_cfg(cfg)  # a second time changes nothing
    copy = pickle.loads(pickle.dumps(cfg.clone()))
    copy.merge_from_file(str(path))
    copy.freeze()
    assert (copy.OPTIM.LR, copy.OPTIM.NAME, copy.TRAINER.ALIGN.M) == (3e-4, "sgd", 3)
    assert copy.BY_SHOTS.other.OPTIM.MAX_EPOCH == 2
    assert cfg == before


def test_yacs_reads_files_without_a_base_as_before(tmp_path):
    cfg = get_cfg_default()
    extend_cfg(cfg)
    cfg.merge_from_file(str(write(tmp_path, "A/one", "OPTIM: {LR: 0.5}\n")))
    assert cfg.OPTIM.LR == 0.5
    with pytest.raises(KeyError, match="OPTIM.LEARNING"):
        cfg.merge_from_file(str(write(tmp_path, "A/two", "OPTIM: {LEARNING: 0.5}\n")))
    with pytest.raises(KeyError, match="OPTIM.LEARNING"):
        cfg.merge_from_file(str(write(tmp_path, "B/three", "BASE: A/two\n")))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_yacs_reads_each_config_as_train_py_does(path):
    read, merged = get_cfg_default(), get_cfg_default()
    for cfg in (read, merged):
        extend_cfg(cfg)
    merge(read, read_keys(path), "the file")
    merged.merge_from_file(str(path))
    assert merged == read
