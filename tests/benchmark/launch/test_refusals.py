"""Commands of protocols that are refused before the first run, and what the sentence names."""

import shlex

import pytest
from paths import ROOT

from benchmark.__main__ import main

# Words of a command, and what its refusal names.
WORDS = [
    ("base2new emojy", "'emojy'", "did you mean 'emoji'"),
    ("base2new --trainers ALGIN", "'ALGIN'", "did you mean 'ALIGN'"),
    ("base2new --trainers coop", "'coop'", "did you mean 'CoOp'"),
    ("base2new --seeds '1 two'", "--seeds", "'two'", "0 or more"),
    ("base2new --seeds -1", "--seeds"),
    ("base2new --seeds 99999999999", "99999999999", "0 to 4294967295"),
    ("base2new --shots 0", "--shots", "'0'", "1 or more"),
    ("base2new --shots 1.5", "--shots"),
    ("base2new --jobs 0", "--jobs"),
    ("base2new --config emojis", "'emojis'", "did you mean 'emoji'"),
    ("base2new dtd", "no config file of ZeroshotCLIP for dtd", "'base2new'"),
    ("base2new OPTIM.LR", "OPTIM.LR has no value"),
    ("base2new OPTIM.LR=1", "'OPTIM.LR=1'", "write KEY VALUE"),
    ("base2new --trainers ALIGN CoOp", "'CoOp' is not a data set", "quote several values"),
    ("base2new --seeds 1 2", "'2' is not a data set", "quote several values"),
    ("base2new DATASET.NUM_SHOTS 4", "DATASET.NUM_SHOTS", "--shots"),
    ("base2new --nonsense", "unrecognized arguments: --nonsense"),
    ("base2new --ood emoji_foot", "'emoji_foot'", "did you mean 'emoji_food'"),
    ("base2new TEST.OOD []", "TEST.OOD", "--ood sets it"),
    ("base2new emoji --vary TRAINER.ALIGN.BETA", "TRAINER.ALIGN.BETA", "KEY=VALUE,VALUE"),
    ("base2new emoji --vary TRAINER.PLOT.N=1,2", "ZeroshotCLIP, CoOp, MaPLe, ALIGN has this key"),
    ("base2new emoji --vary SEED=1,2", "SEED cannot be varied", "--seeds"),
    ("few_shot --shots '1 0'", "--shots", "'0'", "1 or more"),
    ("few_shot dtd", "no config file of ZeroshotCLIP for dtd", "'base2new'"),
    ("several_labels DATASET.KNOWN 0.5", "tables would not name it: give --known"),
    ("cross_dataset", "no data set 'imagenet'", "own images, below --root, is image_folder=FOLDER"),
    ("cross_dataset --source dtd", "dtd has no default targets"),
    ("cross_dataset --source emoji emojy_food", "did you mean 'emoji_food'"),
]


@pytest.mark.parametrize("command, named", [(row[0], row[1:]) for row in WORDS])
def test_words_of_a_command(refused, command, named):
    said = refused(*shlex.split(command))
    assert all(words in said.err for words in named), said.err
    assert said.err.count("\n") == 1 and said.out == ""


def test_own_images_with_several_labels_need_a_table(tmp_path, capsys):
    words = [
        "several_labels",
        "image_folder",
        "--trainers",
        "CoOp",
        "--output",
        str(tmp_path / "o"),
    ]
    assert main([*words, "--backbone", "emoji"]) == 2
    assert "folder or table that --root (DATASET.ROOT) names, but ''" in capsys.readouterr().err


BOTH = "base2new emoji --trainers 'CoOp ALIGN' --seeds 1"
TUNE = "few_shot emoji --shots 4 --trainers 'CoOp ALIGN' --vary"
RN50 = ROOT / "assets" / "whurs19_rn50.safetensors"
# The same of methods and data sets of this checkout, whose settings are checked.
SETTINGS = [
    (f"{BOTH} OPTIM.LRR 0.1", "'LRR'", "did you mean 'LR'"),
    (f"{BOTH} OPTIM.LR x", "'OPTIM.LR' to 'x'", "float"),
    (f"{BOTH} OPTIM.MAX_EPOCH -5", "MAX_EPOCH is -5", "a whole number"),
    (f"{BOTH} TEST.SPLIT vla", "TEST.SPLIT is 'vla'", "one of test, val"),
    (f"{BOTH} TRAINER.ALIGN.M -2", "M is -2"),
    (f"{BOTH} TRAINER.ALIGN.PREC fp8", "PREC is 'fp8'"),
    (f"{BOTH} OPTIM.NAME sdg", "OPTIM.NAME 'sdg'"),
    (f"{BOTH} OPTIM.LR_SCHEDULER cos", "OPTIM.LR_SCHEDULER 'cos'"),
    (f"{BOTH} INPUT.TRANSFORMS \"['flip']\"", "INPUT.TRANSFORMS 'flip'"),
    (f"{BOTH} TRAINER.COOP.CTX_INIT '' TRAINER.COOP.N_CTX -3", "N_CTX is -3"),
    (f"{BOTH} --backbone ViT-B-16", "'ViT-B-16'", "did you mean"),
    (f"{BOTH} --sentences clip7", "CoOp does not start from given sentences"),
    (f"{BOTH} TRAINER.MAPLE.N_CTX 4", "TRAINER.MAPLE.N_CTX, which CoOp does", "TRAINER.COOP"),
    ("few_shot emoji_scenes", "emoji_scenes have several labels: run several_labels or"),
    ("base2new emoji_scenes", "base2new is for images with one label"),
    ("several_base2new emoji", "emoji have one label: run few_shot or base2new"),
    ("several_labels --trainers TCP", "TCP takes one label", "DualCoOp"),
    ("several_labels TEST.ATTACK pgd", "TEST.ATTACK is pgd, which is for images with one"),
    ("few_shot emoji --vary DATASET.KNOWN=0.5", "is 0.5, which is for images with several"),
    ("several_base2new --trainers LinearProbe", "parameters for each class", "several_labels"),
    ("base2new dtd --trainers CLAP", "CLAP has parameters for each class", "new classes"),
    ("base2new dtd --trainers SOTGLP", "SOTGLP has parameters for each class"),
    ("cross_dataset --trainers GDA TRAINER.GDA.FORM shrunk", "GDA has parameters for each class"),
    ("few_shot dtd --trainers GDA --sentences a/b.json", "a/b.json' cannot be read"),
    ("cross_dataset --trainers TipAdapterF", "new classes, as cross_dataset does"),
    ("cross_dataset --trainers PromptKD", "run it in few_shot", "--config cross_dataset"),
    (f"{TUNE} LR=x,y", "the cfg has no 'LR'"),
    (f"{TUNE} OPTIM.LR=x,y", "'OPTIM.LR' to 'x'", "float"),
    (f"{TUNE} TRAINER.MAPLE.N_CTX=2,4", "TRAINER.MAPLE.N_CTX: none of CoOp, ALIGN has this key"),
    ("few_shot emoji --trainers TipAdapter --vary OPTIM.LR=0.1,0.2", "TipAdapter does the same",
     "OPTIM.LR 0.2", "OPTIM.LR 0.1"),
    ("few_shot image_folder=a/b", "'a/b' cannot name a data set"),
    ("few_shot image_folder=dtd", "'dtd' is the name of another data set"),
    ("few_shot image_folders=mine", "'image_folders'", "did you mean 'image_folder'"),
    ("few_shot whurs19 --features a --backbone RN50", "--features are of one backbone"),
    ("few_shot whurs19 DATASET.FEATURES a", "DATASET.FEATURES cannot be given", "--features"),
    ("few_shot whurs19 emoji --trainers CLAP --features a", "emoji and whurs19 would both read"),
    ("few_shot whurs19 whurs19_all --trainers CLAP", "whurs19 and whurs19_all would both read"),
    ("few_shot whurs19 emoji", "whurs19 and emoji have other default methods"),
    (f"cross_dataset emoji_food --source emoji --features {RN50} --trainers CLAP",
     "emoji and emoji_food would both read", "its own file"),
]  # fmt: skip


@pytest.mark.parametrize("command, named", [(row[0], row[1:]) for row in SETTINGS])
def test_settings(command, named, tmp_path, monkeypatch, capsys):
    """As a dry run; the first row in all ways of running."""
    monkeypatch.chdir(tmp_path)
    ways = ["--dry-run"], ["--slurm", "--dry-run"], []
    for way in ways if command == SETTINGS[0][0] else ways[:1]:
        assert main([*shlex.split(command), "--output", "out", *way]) == 2
        said = capsys.readouterr()
        assert all(words in said.err for words in named), said.err
        assert not said.out and not (tmp_path / "out").exists()
