"""The rules that choose the config file of a run, and names of groups of data sets."""

import functools
import itertools

import pytest
import yaml
from cases import SEVERAL, slow_but
from paths import ROOT

from benchmark.__main__ import main
from benchmark.data.check_data import checked_datasets
from benchmark.protocols import CROSS_DATASET, DOMAIN_GENERALIZATION, PROTOCOLS, configs
from benchmark.protocols.configs import GROUPS, TrainerConfigs, known_trainers, with_groups
from recipe.configs import read_keys
from trainers.prompting import UserError
from trainers.prompting.building.by_run import for_run

METHODS = known_trainers()


def config_of(protocol: str, method: str, dataset: str, shots: int, asked=None):
    return TrainerConfigs(asked).find(PROTOCOLS[protocol].rules, method, dataset, shots)


read_keys = functools.cache(read_keys)  # of the few files that many runs have


def keys_on(dataset: str, file, shots: int = 16) -> dict:
    return for_run(read_keys(file), configs.dataset_name(dataset), shots, "all")


# Protocols without published settings of a method, and without a config file.
NONE = {
    "few_shot": {
        "AWT", "BoostAdapter", "CTPT", "DPE", "MMAPP", "MTA", "OTPT", "PromptKD", "RTPT", "StatA",
        "TDA", "TPS", "TPT", "TTC", "TextRefiner", "ZERO",
    },
    "cross_dataset": {"AWTFewShot", "BiomedCoOp", "LNOnly", "LoCoOp", "PLOTPP", "TwoSFS"},
}  # fmt: skip
BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
NONE["domain_generalization"] = NONE["cross_dataset"]
NONE["several_labels"] = NONE["few_shot"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", slow_but(["dtd", "imagenet"], "dtd"))
def test_every_method_has_a_config_file_or_one_sentence(protocol, dataset):
    for method, shots in itertools.product(METHODS, (1, 2, 4, 8, 16)):
        several = PROTOCOLS[protocol].several
        if method in NONE.get(protocol, set()) or (method in SEVERAL and not several):
            with pytest.raises(UserError, match=f"There is no config file of {method} for "):
                config_of(protocol, method, dataset, shots)
            continue
        keys = read_keys(config_of(protocol, method, dataset, shots))
        others = {"DualCoOp": "RN50" if protocol == "several_base2new" else "RN101"}
        others |= {"TaIDPT": "RN50", "TaskRes": "RN50", "BiomedCoOp": f"hf-hub:{BIOMEDCLIP}"}
        assert keys["MODEL.BACKBONE.NAME"] == others.get(method, "ViT-B/16")


# Published batch size, learning rate and epochs for 1, 2, 4, 8 and 16 shots.
PUBLISHED = {
    ("few_shot", "dtd", "ALIGN"): (4, 0.0035, [10, 10, 10, 40, 40]),
    ("few_shot", "dtd", "MMP"): (4, 0.0035, [10, 10, 10, 40, 40]),
    ("few_shot", "dtd", "CoOp"): (32, 0.002, [50, 100, 100, 200, 200]),
    ("few_shot", "dtd", "PLOT"): (32, 0.002, [50, 100, 100, 200, 200]),
    ("few_shot", "imagenet", "CoOp"): (32, 0.002, [50] * 5),
    ("base2new", "imagenet", "ALIGN"): (4, 0.0035, [8] * 5),
    ("cross_dataset", "imagenet", "ALIGN"): (4, 0.0026, [2] * 5),
    ("cross_dataset", "imagenet", "CoOp"): (32, 0.002, [50] * 5),
    ("cross_dataset", "imagenet", "CoCoOp"): (1, 0.002, [10] * 5),
    ("cross_dataset", "imagenet", "IVLP"): (4, 0.0035, [5] * 5),
    ("cross_dataset", "imagenet", "VPT"): (4, 0.0025, [5] * 5),
    ("domain_generalization", "imagenet", "ALIGN"): (4, 0.0026, [2] * 5),
    ("domain_generalization", "imagenet", "MaPLe"): (4, 0.0026, [2] * 5),
    ("base2new", "dtd", "IVLP"): (4, 0.0035, [5] * 5),
    ("base2new", "dtd", "KgCoOp"): (128, 0.002, [100] * 5),
    ("few_shot", "dtd", "KgCoOp"): (128, 0.002, [100] * 5),
    ("base2new", "dtd", "ProGrad"): (32, 0.002, [100] * 5),
    ("base2new", "imagenet", "ProGrad"): (32, 0.002, [50] * 5),
    ("few_shot", "dtd", "ProGrad"): (32, 0.002, [50, 100, 100, 200, 200]),
    ("few_shot", "imagenet", "ProGrad"): (32, 0.002, [50] * 5),
    ("domain_generalization", "imagenet", "ProGrad"): (32, 0.002, [50] * 5),
    ("base2new", "dtd", "PromptSRC"): (4, 0.0025, [20] * 5),
    ("few_shot", "dtd", "PromptSRC"): (4, 0.0025, [50] * 5),
    ("cross_dataset", "imagenet", "PromptSRC"): (4, 0.0025, [20] * 5),
    ("base2new", "dtd", "TCP"): (32, 0.002, [50] * 5),
    ("base2new", "sun397", "TCP"): (32, 0.002, [25] * 5),
    ("base2new", "dtd", "CoPrompt"): (4, 0.0035, [8] * 5),
    ("base2new", "food101", "CoPrompt"): (4, 0.0035, [5] * 5),
}


@pytest.mark.parametrize("case", PUBLISHED, ids=" ".join)
def test_published_hyper_parameters_are_chosen_by_protocol_and_shots(case):
    batch, rate, epochs = PUBLISHED[case]
    protocol, dataset, method = case
    for shots, number in zip((1, 2, 4, 8, 16), epochs, strict=True):
        keys = keys_on(dataset, config_of(protocol, method, dataset, shots), shots)
        assert keys["OPTIM.MAX_EPOCH"] == number
        assert (keys["DATALOADER.TRAIN_X.BATCH_SIZE"], keys["OPTIM.LR"]) == (batch, rate)


@pytest.mark.parametrize("method", ["ALIGN", "MMP", "MaPLe", "UPT", "IVLP", "VPT"])
def test_depths_are_those_of_maples_repository(method):
    """The paper's Table B.2 has no depth, and leaves to MaPLe what it does not list."""
    deep = method in ("IVLP", "VPT")
    for protocol, depth in (("base2new", 9), ("cross_dataset", 3)):
        keys = read_keys(config_of(protocol, method, "imagenet", 16))
        depths = {value for key, value in keys.items() if "DEPTH" in key}
        assert depths == {12 if deep else depth}


def test_coprompt_transfers_at_the_depth_of_its_source():
    """Its base-to-new file sets depths by data set; a transfer would take that of the target."""
    file = config_of("cross_dataset", "CoPrompt", "imagenet", 16)
    for dataset in ("imagenet", "oxford_pets", "food101"):
        keys = keys_on(dataset, file)
        assert (keys["TRAINER.CoPrompt.PROMPT_DEPTH"], keys["TRAINER.CoPrompt.N_CTX"]) == (12, 4)


def test_class_specific_contexts_are_refused_for_any_method(tmp_path, capsys):
    """KgCoOp's keys are in CoOp's node; a template starts one context for all classes."""
    words = ["dtd", "--trainers", "KgCoOp", "--output", str(tmp_path), "--dry-run"]
    words += ["TRAINER.COOP.CSC", "True"]
    learned = [*words, "TRAINER.COOP.CTX_INIT", "False"]
    for command in ("base2new", "few_shot"):
        assert main([command, *words]) == 0
    for command, code in (("base2new", 2), ("cross_dataset", 2), ("domain_generalization", 0)):
        assert main([command, *learned]) == code
    said = capsys.readouterr().err.splitlines()
    assert all("KgCoOp has parameters for each class" in line for line in said) and len(said) == 2


def test_emoji_sets_have_one_config_for_all_protocols_and_a_missing_one_is_named():
    for protocol, dataset in itertools.product(PROTOCOLS, ("emoji", "emoji_food")):
        assert config_of(protocol, "ALIGN", dataset, 1).name == "emoji.yaml"
    with pytest.raises(
        UserError, match="no config file of CoOp for emoji called 'emojis': did you mean"
    ):
        config_of("few_shot", "CoOp", "emoji", 1, "emojis")


def test_the_default_targets_have_config_files():
    for protocol in (CROSS_DATASET, DOMAIN_GENERALIZATION):
        for source, targets in protocol.targets.items():
            configs.check_datasets([source, *targets])


NAMES = {"all": 11, "ten": 10, "imagenet_variants": 4, "medical": 11, "several": 2}


def test_groups_are_of_the_public_data_sets(monkeypatch):
    assert {name: len(members) for name, members in GROUPS.items()} == NAMES
    public = set(checked_datasets())
    assert {name for group in GROUPS.values() for name in group} == public and len(public) == 28
    assert set(GROUPS["all"]) - set(GROUPS["ten"]) == {"imagenet"}
    assert not public & GROUPS.keys()  # no data set has the name of a group
    assert with_groups(["dtd", "ten", "emoji", "dtd"])[:3] == ["dtd", "caltech101", "oxford_pets"]
    assert len(with_groups(["dtd", "ten", "emoji"])) == 11


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["few_shot", "ten", "--shots", "1"], 10),
        (["base2new", "all", "eurosat"], 22),  # both halves
        (["domain_generalization", "imagenet_variants", "--shots", "1"], 5),  # and the source
    ],
)
def test_protocols_take_groups(words, count, tmp_path, capsys):
    more = ["--trainers", "ZeroshotCLIP", "--seeds", "1", "--output", str(tmp_path), "--dry-run"]
    more[:0] = ["--root", str(tmp_path)]
    assert main([*words, *more]) == 0
    out = capsys.readouterr().out
    assert out.count("# run: ") == count
    names = with_groups(word for word in words[1:] if word in (*GROUPS, "eurosat"))
    source = ["imagenet"] * words[0].startswith("domain")
    said = f"# missing for {count} runs: {' '.join([*source, *names])} not in '{tmp_path}': "
    group = " ".join([words[1], *source])
    assert f"{said}`python -m benchmark download {group} --root {tmp_path}` gets them" in out
    more[-1:] = ["--dry-run", "--ood", "imagenet_variants"]
    assert main(["few_shot", "emoji", *more]) == 0
    said = capsys.readouterr().out.replace("'\"'\"'", "")  # bash's quotes
    assert "[ImageNetV2, ImageNetSketch, ImageNetA, ImageNetR]" in said


def test_data_commands_take_groups(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert main(["check-data", "imagenet_variants", "--root", str(tmp_path / "data")]) == 1
    assert "0 of 4 found" in capsys.readouterr().out
    table = yaml.safe_load((ROOT / "configs" / "downloads.yaml").read_text())
    assert {name for group in GROUPS.values() for name in group} == table.keys() - {
        "grocery", "whurs19-images"
    }  # fmt: skip
