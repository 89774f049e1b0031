"""Public config files, command lines and nodes are accepted unmodified."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny  # noqa: F401 (registers TinyColours)
import yaml
from cases import SEVERAL
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from paths import ROOT

import train
from benchmark.launch.engine import Settings
from trainers.prompting import build_method, extend_cfg
from trainers.prompting.building.config import resolve, values_in
from trainers.prompting.method import METHODS
from trainers.prompting.node import read_node

FILES = sorted((ROOT / "configs" / "trainers").glob("[!_]*/*.yaml"))

# Files of the public repositories: batch, learning rate, epochs, and settings in the node.
PUBLIC = {
    "CoOp/rn50": (32, 0.002, 200, {}),
    "CoOp/rn50_ep100": (32, 0.002, 100, {}),
    "CoOp/rn50_ep50_ctxv1": (32, 0.002, 50, {"CTX_INIT": "a photo of a"}),
    "CoOp/rn101_ep50": (32, 0.002, 50, {}),
    "CoOp/vit_b32": (32, 0.002, 200, {}),
    "CoOp/vit_b16_ep100_ctxv1": (32, 0.002, 100, {"CTX_INIT": "a photo of a"}),
    "CoCoOp/vit_b16_c16_ep10_batch1": (1, 0.002, 10, {"N_CTX": 16, "CTX_INIT": ""}),
    "CoCoOp/vit_b16_c4_ep10_batch1_ctxv1": (1, 0.002, 10, {"N_CTX": 4}),
    "MaPLe/vit_b16_c2_ep5_batch4_2ctx": (4, 0.0035, 5, {"PROMPT_DEPTH": 9}),
    "MaPLe/vit_b16_c2_ep5_batch4_2ctx_cross_datasets": (4, 0.0026, 2, {"PROMPT_DEPTH": 3}),
    "VPT/vit_b16_c2_ep5_batch4_4": (4, 0.0025, 5, {"PROMPT_DEPTH_VISION": 12}),
    "IVLP/vit_b16_c2_ep5_batch4_2+2ctx": (4, 0.0035, 5, {"PROMPT_DEPTH_TEXT": 12}),
    "IVLP/vit_b16_c2_ep5_batch4_4ctx_language_only": (4, 0.0025, 5, {"N_CTX_VISION": 0}),
    "NLPrompt/rn50": (32, 0.002, 200, {}),
    "PLOT/rn50": (128, 0.002, 200, {}),
    "MMP/vit_b16_c2_ep5_batch4_2ctx": (4, 0.0025, 80, {"TEXT_PROMPT_NUMBER": 4}),
    "MMP/sun397": (4, 0.002, 80, {"VISION_PROMPT_NUMBER": 2}),
    "KgCoOp/vit_b16_ep100_ctxv1": (128, 0.002, 100, {"CTX_INIT": True, "W": 8.0}),
    "KgCoOp/rn50_ep100": (128, 0.002, 100, {"CTX_INIT": True}),
    "ProGrad/rn50": (32, 0.002, 200, {"CTX_INIT": True}),
    "ProGrad/rn50_ep100": (32, 0.002, 100, {"CTX_INIT": True}),
    "ProGrad/rn50_ep50": (32, 0.002, 50, {"CTX_INIT": True}),
    "BiomedCoOp/few_shot": (4, 0.0025, 100, {"N_CTX": 4, "N_PROMPTS": 50, "TAU": 1.5}),
    "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx": (4, 0.0025, 20, {"GPA_MEAN": 15, "GPA_STD": 1}),
    "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets": (
        4, 0.0025, 20, {"GPA_MEAN": 6, "GPA_STD": 10, "PROMPT_DEPTH_TEXT": 3},
    ),
    "PromptSRC/vit_b16_c2_ep50_batch4_4+4ctx_few_shot": (
        4, 0.0025, 50, {"GPA_MEAN": 30, "GPA_STD": 30},
    ),
    "TCP/vit_b16_ep100_ctxv1": (32, 0.002, 50, {"CTX_INIT": False}),
    "coprompt": (4, 0.0035, 8, {"N_CTX": 2, "PROMPT_DEPTH": 9}),
}  # fmt: skip

# Some settings for one data set only, of each kind, according to the authors' train.py, script or
# README: file, data set, key -> value on this data set, value on others.
BY_DATASET = {
    ("TCP/vit_b16_ep100_ctxv1", "SUN397", "OPTIM.MAX_EPOCH"): (25, 50),
    ("ProGrad/rn50", "EuroSAT", "LOSS.LAMBDA"): (0.8, 1.0),
    ("PLOT/rn50", "OxfordFlowers", "DATALOADER.TRAIN_X.BATCH_SIZE"): (32, 128),
    ("coprompt", "Food101", "OPTIM.MAX_EPOCH"): (5, 8),
    ("coprompt", "Food101", "TRAINER.W"): (0.5, 1.0),
    ("coprompt", "OxfordPets", "TRAINER.W"): (0.1, 1.0),
    ("coprompt", "ImageNet", "TRAINER.CoPrompt.N_CTX"): (4, 2),
    ("coprompt", "EuroSAT", "TRAINER.CoPrompt.PROMPT_DEPTH"): (12, 9),
    ("MMRLpp/base2new_per_dataset", "OxfordFlowers", "TRAINER.MMRLpp.BETA"): (0.4, 0.9),
    ("MMRLpp/few_shot", "ImageNet", "OPTIM.LR"): (0.001, 0.002),
    ("LPPlusPlus/few_shot", "ImageNet", "DATASET.VALIDATION_SHOTS"): (-1, -1),
    ("TransCLIP/few_shot", "ImageNet", "INPUT.TRANSFORMS"): (
        ("random_resized_crop", "random_flip", "normalize"), ("center_crop", "normalize"),
    ),
    ("CTPT/cross_dataset", "ImageNetA", "TRAINER.CTPT.I_AUGMIX"): (True, False),
    ("SkipTuning/few_shot", "Food101", "OPTIM.MAX_EPOCH"): (10, 40),
    ("CLIPSVD/base2new", "EuroSAT", "TRAINER.CLIPSVD.TEMPLATE"): ("a photo of a {}.", ""),
    ("HiCroPL/few_shot", "ImageNet", "TEST.FINAL_MODEL"): ("last_step", "best_val"),
    ("TipAdapter/few_shot_per_dataset", "OxfordFlowers", "TRAINER.TIP_ADAPTER.INIT_ALPHA"):
        (10.0, 1.17),
    ("PromptKD/cross_dataset", "FGVCAircraft", "TRAINER.PROMPTKD.KD_WEIGHT"): (200.0, 1000.0),
    ("TDA/base2new", "EuroSAT", "TRAINER.TDA.POSITIVE_ALPHA"): (4.0, 2.0),
    ("TDA/cross_dataset", "ImageNetA", "DATALOADER.TEST.BATCH_SIZE"): (8, 100),
    ("SOTGLP/few_shot", "FGVCAircraft", "TRAINER.SOTGLP.N_LOCAL_PROMPTS"): (2, 4),
    ("BiomedCoOp/few_shot", "KneeXray", "TRAINER.BIOMEDCOOP.TAU"): (1.75, 1.5),
    ("PromptSRC/vit_b16_c2_ep50_batch4_4+4ctx_few_shot", "FGVCAircraft",
     "TRAINER.PROMPTSRC.GPA_STD"): (5, 30),
}  # fmt: skip

# Epochs that the authors' train.py sets after reading the file, by data set, classes and shots.
MMP = "MMP/vit_b16_c2_ep5_batch4_2ctx"
EPOCHS = {
    ("PLOT/rn50", "DescribableTextures", "all", 1): 50,
    ("PLOT/rn50", "DescribableTextures", "all", 2): 100,
    ("PLOT/rn50", "DescribableTextures", "all", 4): 100,
    ("PLOT/rn50", "DescribableTextures", "all", 8): 200,
    ("PLOT/rn50", "DescribableTextures", "base", 16): 200,
    ("PLOT/rn50", "ImageNet", "all", 16): 50,
    (MMP, "DescribableTextures", "all", 1): 30,
    (MMP, "DescribableTextures", "all", 2): 50,
    (MMP, "DescribableTextures", "all", 4): 50,
    (MMP, "DescribableTextures", "all", 16): 80,
    (MMP, "DescribableTextures", "base", 16): 20,
    (MMP, "DescribableTextures", "new", 1): 20,
    (MMP, "ImageNet", "all", 16): 20,
    ("MMP/sun397", "SUN397", "all", 16): 80,
    ("MMP/sun397", "SUN397", "base", 16): 20,
}

TRAINERS = {"coprompt": "CoPrompt"}  # files that are not in a folder of their method


def cfg_of(path, *more, trainer=None, dataset="TinyColours"):
    trainer = trainer or TRAINERS.get(Path(path).stem, Path(path).parent.name)
    flags = ["--config-file", str(path), "--trainer", trainer]
    return train.setup_cfg(train.parse_args([*flags, "DATASET.NAME", dataset, *more]))


def node_of(cfg):
    method = METHODS[cfg.TRAINER.NAME]
    return read_node(method, values_in(cfg, method), cfg.DATASET.NAME)


def value(cfg, place: str):
    for part in place.split("."):
        cfg = cfg[part]
    return cfg


@pytest.mark.parametrize("name", sorted({path.parent.name for path in FILES}))
def test_every_config_file_describes_a_method(name, capsys):
    method = METHODS[name]
    outside = [
        place.split(".")[1] for place in method.public.outside.values() if "TRAINER" in place
    ]
    for path in (path for path in FILES if path.parent.name == name):
        assert isinstance(node_of(cfg_of(path)), method.Settings), path
        named = yaml.safe_load(path.read_text())
        assert set(named.get("TRAINER", {})) <= {method.node, *outside}, path
        assert set(named.get("BY_DATASET", {})) <= set(DATASET_REGISTRY.registered_names()), path
        shots = named.get("BY_SHOTS", {})
        assert all(each == "other" or each.isdecimal() for each in shots), path
        keys = named.get("TRAINER", {}).get("MMP", {})
        ignored = [key for key in ("VISION_PROMPT_DEPTH", "USECT") if key in keys]
        warnings = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
        assert len(warnings) == bool(ignored), path
        assert all(f"TRAINER.MMP.{key}" in warnings[0] for key in ignored), path


@pytest.mark.parametrize("case", BY_DATASET, ids=" ".join)
def test_values_of_one_data_set(case):
    name, dataset, place = case
    path, (there, elsewhere) = ROOT / "configs" / "trainers" / f"{name}.yaml", BY_DATASET[case]
    assert value(cfg_of(path), place) == elsewhere
    assert value(cfg_of(path, dataset=dataset), place) == there
    asked = cfg_of(path, place, str(elsewhere), dataset=dataset)
    assert value(asked, place) == elsewhere, "the command line takes precedence over the file"


@pytest.mark.parametrize("case", EPOCHS, ids=str)
def test_epochs_by_shots(case):
    name, dataset, classes, shots = case
    path = ROOT / "configs" / "trainers" / f"{name}.yaml"
    run = ["DATASET.NUM_SHOTS", str(shots), "DATASET.SUBSAMPLE_CLASSES", classes]
    cfg = cfg_of(path, *run, dataset=dataset)
    assert EPOCHS[case] == cfg.OPTIM.MAX_EPOCH
    asked = cfg_of(path, *run, "OPTIM.MAX_EPOCH", "7", dataset=dataset)
    assert asked.OPTIM.MAX_EPOCH == 7, "the command line takes precedence over the file"
    plain = get_cfg_default()  # as another train.py merges it
    extend_cfg(plain)
    plain.merge_from_file(str(path))
    plain.merge_from_list(["DATASET.NAME", dataset, *run])
    plain.freeze()
    assert resolve(plain).OPTIM == cfg.OPTIM


def test_the_published_path_of_coprompts_file():
    names = ("coprompt.yaml", "CoPrompt/base2new.yaml")
    first, second = ((ROOT / "configs/trainers" / name).read_text() for name in names)
    assert first == second


@pytest.mark.parametrize("name", PUBLIC)
def test_public_values(name):
    batch, rate, epochs, node = PUBLIC[name]
    path = ROOT / "configs" / "trainers" / f"{name}.yaml"
    cfg = cfg_of(path)
    found = cfg.DATALOADER.TRAIN_X.BATCH_SIZE, cfg.OPTIM.LR, cfg.OPTIM.MAX_EPOCH
    assert found == (batch, rate, epochs)
    assert (cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE) == (1, "constant")
    assert cfg.INPUT.INTERPOLATION == "bicubic"
    own = values_in(cfg, METHODS[cfg.TRAINER.NAME])
    assert {key: own[key] for key in node} == node
    plain = get_cfg_default()  # as a public train.py merges it
    extend_cfg(plain)
    plain.merge_from_file(str(path))
    assert resolve(plain).OPTIM == cfg.OPTIM


def test_every_method_has_its_base_to_new_config():
    known = {path.parent.name for path in FILES if path.stem == "base2new"}
    assert known == {n for n, kind in METHODS.items() if kind.class_bound is not True} - SEVERAL


def test_the_published_align_takes_several_templates_with_tabs_between(tiny_clip):
    node = {"CTX_INIT": "a photo of a\ta sketch of the", "TEXT_PROMPT_NUMBER": 3}
    node["TEXT_PROMPT_DEPTH"] = 2

    def templates(node):
        return build_method("MMP", node, tiny_clip, ["cat"]).templates()

    assert templates(node) == ("a photo of a", "a sketch of the", "X X")
    assert templates(node | {"TEXT_PROMPT_NUMBER": 1}) == ("a photo of a",)


def test_an_ignored_key_is_named_and_an_unknown_one_is_an_error(tmp_path, capsys):
    same = read_node(METHODS["MMP"], {})
    assert capsys.readouterr().out == ""
    assert read_node(METHODS["MMP"], {"USECT": True}) == same
    assert capsys.readouterr().out.count("TRAINER.MMP.USECT") == 1
    path = tmp_path / "old.yaml"
    path.write_text("TRAINER:\n  MMP:\n    USECT: True\n    N_CTX: 3\n")
    assert cfg_of(path, trainer="MMP").TRAINER.MMP.N_CTX == 3
    path.write_text("TRAINER:\n  MMP:\n    USE_CT: True\n")
    data = str(ROOT / "configs" / "datasets" / "emoji.yaml")
    arguments = ["--dataset-config-file", data, "--config-file", str(path), "--trainer", "MMP"]
    assert train.run(arguments) == 2
    error = capsys.readouterr().err
    assert "USE_CT" in error and "did you mean 'USECT'" in error


def test_a_file_for_another_backbone_takes_the_prompts_that_fit_the_backbone(tmp_path):
    folder = ROOT / "configs" / "trainers" / "ALIGN"

    def cfg_of(file, backbone, *opts):
        args = ["--dataset-config-file", str(ROOT / "configs" / "datasets" / "image_folder.yaml")]
        args += ["--config-file", str(folder / file), "--trainer", "ALIGN"]
        cfg = train.setup_cfg(train.parse_args([*args, "--backbone", backbone, *opts]))
        return cfg.TRAINER.ALIGN.DEPTH, cfg.OPTIM.LR

    assert cfg_of("few_shot_8_16.yaml", "emoji") == (3, 0.0035)
    assert cfg_of("few_shot_8_16.yaml", "emoji", "TRAINER.ALIGN.DEPTH", "2") == (2, 0.0035)
    assert cfg_of("few_shot_8_16.yaml", "ViT-B/32") == (9, 0.0035)
    own = tmp_path / "mine.yaml"
    own.write_text("MODEL: {BACKBONE: {NAME: emoji}}\nTRAINER: {ALIGN: {DEPTH: 4}}")
    (tmp_path / "emoji.yaml").write_text("TRAINER: {ALIGN: {DEPTH: 1}}")
    assert cfg_of(own, "emoji")[0] == 4
    own = {"config_file": folder / "base2new.yaml", "dataset": "image_folder", "opts": ()}
    run = SimpleNamespace(**own, shots=16, subsample="base")
    # settings that the results of a table must have
    asked = Settings(backbone="emoji").expected_values(run)
    assert asked["TRAINER.ALIGN.DEPTH"] == 3 and asked["OPTIM.LR"] == 0.0035
