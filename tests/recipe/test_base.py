"""Config files that name another one as their base."""

import pickle

import pytest
from dassl.config import get_cfg_default
from paths import ROOT

from recipe.configs import merge, read_keys
from trainers.prompting import UserError, extend_cfg

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


@pytest.mark.parametrize("base", ["../../secret", "/etc/passwd", "[a]", "CoOp", "7"])
def test_a_base_is_named_by_method_and_config(tmp_path, base):
    with pytest.raises(UserError, match="give METHOD/CONFIG"):
        read_keys(write(tmp_path, "Mine/x", f"BASE: {base}\n"))


def test_a_file_copied_without_its_base(tmp_path):
    path = write(tmp_path, "Mine/x", "BASE: Their/few_shot\n")
    cfg = get_cfg_default()
    extend_cfg(cfg)
    for read in (read_keys, lambda path: cfg.merge_from_file(str(path))):
        with pytest.raises(UserError, match="no such file .* copy Their/few_shot.yaml, too"):
            read(path)


def test_a_file_that_is_its_own_base(tmp_path):
    write(tmp_path, "A/one", "BASE: B/two\n")
    path = write(tmp_path, "B/two", "BASE: A/one\n")
    with pytest.raises(UserError, match="is its own base"):
        read_keys(path)


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
