"""The plug-in imports only what other checkouts and Dassl 0.6.3 have; its public names."""

import ast
import doctest
import subprocess
import sys

import pytest
import tiny
from paths import ROOT

import trainers.prompting

DASSL = {
    "dassl.config": {"get_cfg_default", "clean_cfg"},
    "dassl.data": {"DataManager"},
    "dassl.data.datasets": {"DATASET_REGISTRY", "DatasetBase", "Datum", "build_dataset"},
    "dassl.data.transforms": {"build_transform"},
    "dassl.engine": {
        "TRAINER_REGISTRY", "build_trainer", "TrainerBase", "SimpleTrainer", "SimpleNet",
        "TrainerX", "TrainerXU",
    },
    "dassl.evaluation": {"EVALUATOR_REGISTRY", "EvaluatorBase", "Classification",
                         "build_evaluator"},
    "dassl.metrics": {"compute_accuracy"},
    "dassl.optim": {"build_optimizer", "build_lr_scheduler"},
    "dassl.utils": {
        "load_checkpoint", "save_checkpoint", "resume_from_checkpoint", "load_pretrained_weights",
        "count_num_param", "set_random_seed", "setup_logger", "collect_env_info", "Registry",
        "mkdir_if_missing", "read_image", "AverageMeter", "MetricMeter",
    },
}  # fmt: skip
# The attributes of a TrainerX of Dassl 0.6.3.
TRAINER = {
    "_models", "_optims", "_scheds", "_writer", "batch_idx", "before_train", "after_train",
    "before_epoch", "after_epoch", "best_result", "build_data_loader", "build_model", "cfg",
    "check_cfg", "close_writer", "device", "detect_anomaly", "dm", "epoch", "evaluator",
    "forward_backward", "get_current_lr", "get_model_names", "init_writer", "lab2cname",
    "load_model", "max_epoch", "model_backward", "model_backward_and_update", "model_inference",
    "model_update", "model_zero_grad", "num_batches", "num_classes", "num_source_domains",
    "output_dir", "parse_batch_test", "parse_batch_train", "register_model",
    "resume_model_if_exist", "run_epoch", "save_model", "set_model_mode", "start_epoch", "test",
    "test_loader", "time_start", "train", "train_loader_u", "train_loader_x", "update_lr",
    "val_loader", "write_scalar",
}  # fmt: skip
OTHERS = {"torch", "yacs", "safetensors", "packaging", "ot", "filelock"}
OTHERS |= {"numpy", "scipy"}  # which `ot` requires
OTHERS |= sys.stdlib_module_names
# imported in functions or guarded, by file
OPTIONAL = {
    "triton_kernels.py": {"triton"},
    "openclip.py": {"open_clip"},
    "hugging_face.py": {"transformers"},
    "hub.py": {"huggingface_hub"},
    "tokenizers.py": {"open_clip"},
    "export.py": {"onnxruntime", "onnxscript"},
    "predict.py": {"PIL", "tqdm"},  # which torchvision and clip require
    "transforms.py": {"PIL", "torchvision"},  # which Dassl requires
    "transparency.py": {"PIL"},
    "class_folders.py": {"PIL", "tqdm"},  # and pillow_heif, if it is there
    "image_files.py": {"PIL"},
    "folds.py": {"sklearn"},  # an extra
    "labels.py": {"sklearn"},
    "images.py": {"PIL"},
    "attacks.py": {"torchvision"},
    "serve.py": {"uvicorn"},  # an extra
    "encode.py": {"tqdm"},
    "page.py": {"PIL", "jinja2", "matplotlib", "starlette"},  # extras
    "cached.py": {"open_clip", "huggingface_hub"},
    "results.py": {"yaml"},  # which yacs requires
    "base_config.py": {"yaml"},
    "stamp.py": {"yaml"},
}
SOURCES = sorted((ROOT / "trainers" / "prompting").rglob("*.py"))


def test_imports_exist_in_the_original_dassl_and_other_checkouts():
    for path in SOURCES:
        others = OTHERS | OPTIONAL.get(path.name, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                if node.module.startswith("dassl"):
                    assert {alias.name for alias in node.names} <= DASSL[node.module], path
                else:
                    assert node.module.partition(".")[0] in others, path
            elif isinstance(node, ast.Import):
                assert all(alias.name.partition(".")[0] in others for alias in node.names), path


def test_the_trainer_uses_what_the_original_trainer_has():
    own, used, folder = set(), set(), ROOT / "trainers" / "prompting" / "trainer"
    for file in ("trainer.py", "saving.py"):
        tree = ast.parse((folder / file).read_text())
        (trainer,) = (n for n in tree.body if isinstance(n, ast.ClassDef))
        own |= {n.name for n in trainer.body if isinstance(n, ast.FunctionDef)}
        own |= {n.target.id for n in trainer.body if isinstance(n, ast.AnnAssign)}
        own |= {t.id for n in trainer.body if isinstance(n, ast.Assign) for t in n.targets}
        for node in ast.walk(trainer):
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "self":
                (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
    assert "cfg" in used and used - own <= TRAINER


def test_every_public_name_exists_and_is_known_to_type_checkers():
    package = trainers.prompting
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
    tree = ast.parse((ROOT / "trainers" / "prompting" / "__init__.py").read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    places = {alias.asname: node.module for node in checked.body for alias in node.names}
    assert places == package._MODULES
    assert {"Contexts", "Method", "Teacher", "TextEncoder"} <= set(package.__all__)


IN_ANOTHER_PROCESS = """
import sys
import train
from benchmark.__main__ import main
code = main(["predict", "--model-dir", sys.argv[1], sys.argv[2]])
code = code or "torch._dynamo" in sys.modules or train.run(sys.argv[3:])  # optimisers import it
sys.exit(int(code or "torchvision" in sys.modules))
"""


@pytest.mark.slow
def test_predict_and_runs_on_features_import_no_torchvision_or_compiler(tmp_path):
    data, run, configs = tiny.write_halves(tmp_path / "data"), tmp_path / "run", ROOT / "configs"
    assert tiny.run(data, "ZeroshotCLIP", run, 1, extra=[*tiny.OF_HALVES, "all"]) == 0
    words = [run, next(data.rglob("*.png")), "--output-dir", tmp_path / "rows", "--seed", "1"]
    words += ["--dataset-config-file", configs / "datasets" / "whurs19.yaml", "--trainer"]
    words += ["TipAdapterF", "--config-file", configs / "trainers/TipAdapterF/features.yaml"]
    words += ["DATASET.FEATURES", ROOT / "assets" / "whurs19_rn50.safetensors"]
    words += ["DATASET.NUM_SHOTS", "1", "OPTIM.MAX_EPOCH", "1"]
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_names_are_listed():
    names = trainers.prompting.list_methods()
    assert {"ALIGN", "CoOp", "ZeroshotCLIP"} <= set(names) and names == sorted(names)
    assert {"emoji", "ViT-B/16"} <= set(trainers.prompting.list_backbones())


def test_no_path_leads_out_of_the_folder():
    """The package contains all data that it needs, because it is copied into other checkouts."""
    for path in SOURCES:
        depth = len(path.relative_to(ROOT / "trainers" / "prompting").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Subscript) and getattr(node.value, "attr", "") == "parents":
                assert int(ast.unparse(node.slice)) < depth, path


@pytest.mark.parametrize("name", trainers.prompting.__all__)
def test_the_example_of_a_public_name(name):
    (example,) = doctest.DocTestFinder(recurse=False).find(getattr(trainers.prompting, name), name)
    assert example.examples, f"{name} has none"
    if "transformers" in example.docstring:
        pytest.importorskip("transformers", reason="transformers is not installed")
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    said = []
    assert not runner.run(example, out=said.append).failed, "".join(said)
