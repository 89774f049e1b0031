"""The plug-ins in examples/: parity with the public codes, mistakes, and a protocol end to end.

The files in golden/examples were computed with modules of zhengli97/ATPrompt (86980a1) and
Koorye/DePT (d4ff416), in float32, on the tiny CLIP of the other golden numbers.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_files import build, near, read
from paths import GOLDEN, ROOT
from test_golden import check_step

from recipe.configs import read_keys
from recipe.settings import build_cfg, cfg_text
from trainers.prompting import UserError, build_clip, build_method, load_run, plugins
from trainers.prompting.checkpoint.identity import identity
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS
from trainers.prompting.trainer.schedule import build_optim

FILES = sorted((GOLDEN / "examples").glob("*.safetensors"))
EXAMPLES = [str(ROOT / "examples" / name) for name in ("atprompt.py", "dept.py")]
NAMES = ["annual crop land", "forest", "sea_or_lake"]


@pytest.fixture(autouse=True, scope="module")
def loaded():
    """Load the plug-ins for these tests, and remove them at the end."""
    registered, count = dict(METHODS), len(plugins._plugins)
    plugins.load_plugins(EXAMPLES)
    yield
    METHODS.clear()
    METHODS.update(registered)
    del plugins._plugins[count:]
    for path in EXAMPLES:  # others load them, too
        plugins._loaded.discard(path)
        sys.modules.pop(Path(path).stem, None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_logits_loss_and_gradients(path, tiny_clip, tmp_path):
    golden = read(path)
    method = build(golden, tiny_clip, tmp_path)
    check_step(method, golden)
    state = method.public_state_dict()
    unused = {"ctx_att3", "prompt_learner.ctx_att3"}  # only the public code saves them
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in golden.params.items() if k not in unused
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_classes_of_the_training_and_others(path, tiny_clip, tmp_path):
    golden = read(path)
    method = build(golden, tiny_clip, tmp_path).eval()
    state = {"state_dict": golden.params}
    names, images = golden.meta["classnames"], golden.tensors["image"]
    for of, wanted in ((names, "logits"), (["cat", "dog"], "logits_new")):
        method.load_checkpoint(Saved.of(state | {"classnames": of}), names)
        expected = golden.tensors.get(wanted, golden.tensors["logits"])
        assert near(method(images), expected)


def dept(clip_model, names=NAMES, dataset="", **node):
    return build_method("DePT", {"N_CTX": 4} | node, clip_model, names, dataset)


def test_dept_without_fusion(tiny_clip, tmp_path):
    golden = read(GOLDEN / "examples" / "dept.safetensors")
    method = build(golden, tiny_clip, tmp_path, TEST_TIME_FUSION=False).eval()
    assert near(method(golden.tensors["image"]), golden.tensors["logits_head"])


def test_dept_predicts_classes_without_rows_in_its_head(tiny_clip):
    trained, images = dept(tiny_clip), torch.randn(2, 3, 32, 32)
    checkpoint = {"state_dict": trained.public_state_dict(), "classnames": NAMES}
    other = dept(tiny_clip, ["golden retriever", "highway or road"]).eval()
    other.load_checkpoint(Saved.of(checkpoint), ["golden retriever", "highway or road"])
    assert other.linear_probe_proj.weight.shape == (3, 64)
    coop = build_method("CoOp", {"N_CTX": 4}, tiny_clip, ["golden retriever", "highway or road"])
    coop.load_public_state_dict({"ctx": trained.prompt_learner.ctx})
    torch.testing.assert_close(other(images), coop.eval()(images))


@pytest.mark.parametrize(
    ("classes", "dataset", "own"),
    [("base", "", True), ("new", "", False), ("all", "", False), ("all", "ImageNetV2", True)],
)
def test_dept_of_a_public_checkpoint(tiny_clip, classes, dataset, own):
    method = dept(tiny_clip, dataset=dataset, SUBSAMPLE_CLASSES=classes)
    method.load_checkpoint(Saved.of({"state_dict": method.public_state_dict()}), NAMES)
    assert method.own_classes == own


@torch.no_grad()
@pytest.mark.parametrize("attribute", ["golden retriever", "sea"])
def test_all_tokens_of_an_attribute_stay(tiny_clip, attribute):
    """The logits are those of a CoOp with the same context."""
    node = {"N_CTX": 2, "ATT_NUM": 1, "N_ATT1": 3, "ATT1_TEXT": attribute}
    method = build_method("ATPrompt", node, tiny_clip, NAMES).eval()
    own = method.public_state_dict()
    assert own.keys() == {"prompt_learner.ctx", "prompt_learner.ctx_att1"}
    words = len(attribute.split())
    coop = build_method("CoOp", {"N_CTX": 5 + words}, tiny_clip, NAMES).eval()
    start = build_method("CoOp", {"CTX_INIT": attribute}, tiny_clip, NAMES).prompt_learner.ctx
    pieces = own["prompt_learner.ctx_att1"], start.detach(), own["prompt_learner.ctx"]
    coop.prompt_learner.ctx.copy_(torch.cat(pieces))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(method(images), coop(images), rtol=0, atol=1e-5)


def test_a_depth_that_the_clip_has_not(tiny_clip):
    with pytest.raises(UserError, match="has 4 blocks"):
        build_method("DeepATPrompt", {"PROMPT_DEPTH": 5}, tiny_clip, NAMES)


def test_dept_needs_a_transformer():
    arch = {
        "embed_dim": 32, "image_resolution": 32, "vision_layers": (1, 1, 1, 1), "vision_width": 8,
        "vision_patch_size": None, "context_length": 77, "vocab_size": 49408,
        "transformer_width": 64, "transformer_heads": 1, "transformer_layers": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match="has a ResNet for images but .* choose a ViT"):
        dept(build_clip(arch))


def read_config(trainer, name, dataset="OxfordFlowers"):
    path = f"examples/{trainer}/{name}.yaml"
    flags = {"TRAINER.NAME": trainer, "DATASET.NAME": dataset}
    return build_cfg([(path, read_keys(str(ROOT / path))), ("a flag", flags)])


@pytest.mark.parametrize(
    ("trainer", "there", "away"),
    [
        ("ATPrompt", ["COOP:", "N_CTX: 2", "ATT3_TEXT: growth"], ["MAPLE:", "FILM:", "CTX_INIT:"]),
        ("DeepATPrompt", ["MAPLE:", "PROMPT_DEPTH:", "ATT3_TEXT: growth"], ["COOP:", "FILM:"]),
        ("DePT", ["COOP:", "N_CTX: 16", "WEIGHT: 0.7", "FILM:"], ["MAPLE:", "ATPROMPT:"]),
    ],
)
def test_configs_and_the_settings_that_a_run_shows(trainer, there, away):
    """Of the nodes of other methods, only the keys that the method reads are shown."""
    text = cfg_text(read_config(trainer, "base2new"))
    assert [word for word in there if word not in text] == []
    assert [word for word in away if word in text] == []
    cfg = read_config(trainer, "emoji", "Emoji")
    assert cfg.MODEL.BACKBONE.NAME == "emoji"
    method = METHODS[trainer]
    own = {method.place(key) for key in method.defaults}  # settings that `run.json` stores
    assert own <= identity(cfg, method).settings.keys()


def test_the_head_of_dept_learns_faster(tiny_clip):
    method = dept(tiny_clip)
    optim = build_optim(method.learned(), read_config("DePT", "base2new").OPTIM, 1)[0]
    prompt, head = optim.param_groups
    assert list(map(id, prompt["params"])) == list(map(id, method.prompt_learner.parameters()))
    of_head = [p for name, p in method.learned().items() if "prompt_learner" not in name]
    assert list(map(id, head["params"])) == list(map(id, of_head))
    assert prompt["initial_lr"] == pytest.approx(0.0035) and head["initial_lr"] == 0.0035 * 6.5


@pytest.mark.slow
def test_from_end_to_end(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "SEEDS": "1", "SHOTS": "1"}
    environment |= {"OUTPUT": str(tmp_path), "PLUGINS": " ".join(EXAMPLES)}
    environment |= {"TRAINERS": "ATPrompt DeepATPrompt DePT"}
    command = ["bash", "scripts/base2new.sh", "emoji", "OPTIM.MAX_EPOCH", "1"]
    done = subprocess.run(
        [*command, "OPTIM.WARMUP_EPOCH", "0"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for trainer, folder in (
        ("ATPrompt", "prompt_learner"),
        ("DeepATPrompt", "MultiModalPromptLearner"),
        ("DePT", "PromptLearner"),
    ):
        assert re.search(rf"^{trainer}( \(llm\))? +\d", done.stdout, re.MULTILINE)
        (run,) = tmp_path.glob(f"base2new/train_base/emoji/*/{trainer}/emoji/seed1")
        assert (run / folder / "model.pth.tar-1").is_file()
        assert json.loads((run / "results.json").read_text())["trainer"] == trainer
        loaded = load_run(run)
        logits = loaded.model(torch.randn(2, 3, 64, 64))
        assert loaded.method == trainer and logits.shape == (2, len(loaded.classnames))
