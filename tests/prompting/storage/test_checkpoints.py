"""Public checkpoints load, and those of this project have the public names and layout."""

import numpy as np
import pytest
import torch
from cases import slow_but
from dassl.engine import build_trainer
from golden_files import read
from paths import GOLDEN
from tiny import COLOURS, run

from trainers.prompting import UserError, build_method
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS

# The folder in which public repositories save a method; True if only the prompt learner is saved.
LAYOUT = {
    "CoOp": ("prompt_learner", True),
    "CoCoOp": ("prompt_learner", True),
    "PLOT": ("prompt_learner", True),
    "VPT": ("prompt_learner", False),
    "IVLP": ("VLPromptLearner", False),
    "MaPLe": ("MultiModalPromptLearner", False),
    "MMP": ("MultiModalPromptLearner", False),
    "ALIGN": ("MultiModalPromptLearner", False),
    "KgCoOp": ("prompt_learner", True),
    "ProGrad": ("prompt_learner", True),
    "PromptSRC": ("VLPromptLearner", False),
    "TCP": ("prompt_learner", True),
    "CoPrompt": ("MultiModalPromptLearner", False),
    "HiCroPL": ("VLPromptLearner", False),
}
# Golden files, whose parameters have the public names and shapes.
CASES = (
    "coop_end", "coop_middle", "coop_init", "cocoop", "plot", "vpt_shallow", "vpt_deep", "ivlp",
    "maple_depth1", "maple_depth3", "align_released", "align_paper_convex05", "kgcoop", "prograd",
    "promptsrc", "tcp", "coprompt", "hicropl",
)  # fmt: skip
# One of each layout, with and without deep prompts.
CASES_ONCE = slow_but(CASES, "coop_end", "cocoop", "vpt_deep", "maple_depth3", "ivlp")
# Other entries of the public checkpoints.
DEAD = {
    "KgCoOp": {"prompt_learner.bias_vectors": (1, 512),
               "prompt_learner.meta_net.linear1.weight": (512, 512)},
    "PromptSRC": {"prompt_learner.ZS_image_encoder.conv1.weight": (3, 4)},
    "CoPrompt": {"model_distill.logit_scale": ()},
    "HiCroPL": {"prompt_learner.ZS_image_encoder.conv1.weight": (3, 4),
                "prompt_learner.cross_prompts_text.0": (3, 128)},
}  # fmt: skip


def golden(stem):
    return read(GOLDEN / f"{stem}.safetensors")


def method_in(stem):
    """Return the parameters, the method and its node in a golden file."""
    source = golden(stem)
    return source.params, source.meta["method"], source.meta["config"]


def options(trainer, node) -> list[str]:
    """Return KEY VALUE pairs of a method's settings, without those of the training only."""
    method = METHODS[trainer]
    pairs = [
        (method.public.outside.get(key, f"TRAINER.{method.node}.{key}"), str(value))
        for key, value in node.items()
        if key not in (*method.training_only, *method.test_keys)
    ]
    return [word for pair in pairs for word in pair]


def public_state(params, clip_model, trainer: str) -> dict:
    """Return the state dict of a public model.

    It is in half precision, with buffers of 99 other classes, the frozen CLIP and unused entries.
    The CLIP in it differs from that of the run, so that a test notices if it is loaded.
    """
    width = clip_model.token_embedding.weight.shape[1]
    is_submodule = LAYOUT[trainer][1]
    dead = {name: torch.ones(shape) for name, shape in DEAD.get(trainer, {}).items()}
    state = dict(params) | dead
    state["prompt_learner.token_prefix"] = torch.zeros(99, 1, width)
    state["prompt_learner.token_suffix"] = torch.zeros(99, 60, width)
    if is_submodule:
        state = {name.removeprefix("prompt_learner."): value for name, value in state.items()}
    else:
        for name, value in clip_model.state_dict().items():
            if name == "logit_scale":
                state[name] = value + 1
            elif name.startswith("visual."):
                state["image_encoder." + name.removeprefix("visual.")] = value + 1
            elif name != "token_embedding.weight":
                state["text_encoder." + name] = value + 1
    return {name: value.half() for name, value in state.items()}


def write_public(folder, state, name="model.pth.tar-5", val_result=None):
    """Write a checkpoint like Dassl's: the state of the warm-up holds its successor, an object."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(3))], lr=0.002, momentum=0.9)
    successor = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    checkpoint = {
        "state_dict": state,
        "epoch": 5,
        "optimizer": optimizer.state_dict(),
        "scheduler": {"successor": successor, "warmup_epoch": 1, "last_epoch": 5},
        "val_result": val_result,
    }
    torch.save(checkpoint, folder / name)


class Evaluation:
    """A call of train.py on the tiny data set: its exit code, and the model that it built."""

    def __init__(self, monkeypatch, root, trainer, node, *flags, pairs=()):
        built = []
        monkeypatch.setattr("recipe.run.build_trainer", lambda cfg: built.append(build_trainer(cfg))
                            or built[0])  # fmt: skip
        pairs = [*options(trainer, node), *pairs]
        self.code = run(root, trainer, None, 1, *map(str, flags), extra=pairs)
        self.model = built[0].model if built else None

    def loaded(self, params) -> bool:
        state = self.model.public_state_dict()
        return state.keys() == params.keys() and all(
            torch.equal(state[name], value.half().float()) for name, value in params.items()
        )


@pytest.mark.parametrize("stem", CASES_ONCE)
def test_a_public_checkpoint_loads(tmp_path, monkeypatch, tiny_clip, stem):
    params, trainer, node = method_in(stem)
    folder, _ = LAYOUT[trainer]
    files = tmp_path / "theirs" / folder
    write_public(files, public_state(params, tiny_clip, trainer))
    flags = ["--eval-only", "--model-dir", tmp_path / "theirs"]
    epoch = Evaluation(monkeypatch, tmp_path, trainer, node, *flags, "--load-epoch", 5)
    assert epoch.code == 0 and epoch.loaded(params)
    frozen, image = epoch.model.text_encoder.ln_final.weight, epoch.model.image_encoder
    assert torch.equal(frozen, tiny_clip.ln_final.weight)
    assert torch.equal(image.visual.conv1.weight, tiny_clip.visual.conv1.weight)
    assert torch.equal(epoch.model.logit_scale, tiny_clip.logit_scale.exp())
    if stem == "maple_depth3":
        best = {name: value + 0.5 for name, value in params.items()}
        state = public_state(best, tiny_clip, trainer)
        write_public(files, state, "model-best.pth.tar", np.float64(71.3))
        last = Evaluation(monkeypatch, tmp_path, trainer, node, *flags)
        assert last.code == 0 and last.loaded(best)


def test_prompts_of_the_published_align_load_into_the_paper_form(tmp_path, monkeypatch, tiny_clip):
    params = golden("align_released").params
    write_public(tmp_path / "MultiModalPromptLearner", public_state(params, tiny_clip, "MMP"))
    node = {"M": 4, "N": 4, "DEPTH": 3}
    flags = ["--eval-only", "--model-dir", tmp_path, "--load-epoch", 5]
    evaluation = Evaluation(monkeypatch, tmp_path, "ALIGN", node, *flags)
    assert evaluation.code == 0 and evaluation.loaded(params)


@pytest.mark.parametrize("is_plain", [False, True])
def test_training_can_start_from_a_public_checkpoint(tmp_path, monkeypatch, tiny_clip, is_plain):
    params, _, node = method_in("maple_depth3")
    state = public_state(params, tiny_clip, "MaPLe")
    write_public(tmp_path, state)
    if is_plain:  # only the tensors
        torch.save(state, tmp_path / "model.pth.tar-5")
    pairs = ["MODEL.INIT_WEIGHTS", str(tmp_path / "model.pth.tar-5")]
    start = Evaluation(monkeypatch, tmp_path, "MaPLe", node, "--no-train", pairs=pairs)
    assert start.code == 0 and start.loaded(params)


# Golden file, trainer, wrong settings, part of the message.
MISFITS = {
    "deeper": ("maple_depth3", "MaPLe", {"PROMPT_DEPTH": 2}, "of deeper prompts"),
    "shallower": ("maple_depth3", "MaPLe", {"PROMPT_DEPTH": 4}, "of shallower prompts"),
    "deeper text": ("ivlp", "IVLP", {"PROMPT_DEPTH_TEXT": 1}, "of deeper prompts"),
    "shallower images": ("vpt_shallow", "VPT", {"PROMPT_DEPTH_VISION": 2}, "shallower prompts"),
    "length": ("coop_end", "CoOp", {"N_CTX": 4}, "shape (16, 128)"),
    "visual length": ("vpt_deep", "VPT", {"N_CTX_VISION": 4}, "shape (8, 128)"),
    "number": ("plot", "PLOT", {"N": 3}, "shape (4, 4, 128)"),
    "prompts": ("align_released", "MMP", {"TEXT_PROMPT_NUMBER": 5}, "shape (4, 2, 128)"),
    "classes": ("coop_csc", "CoOp", {}, "shape (6, 4, 128), but the method's has (4, 4, 128)"),
    "CoCoOp's as CoOp's": ("cocoop", "CoOp", {}, "'meta_net.linear1"),
    "VPT's as CoOp's": ("vpt_shallow", "CoOp", {"N_CTX": 4}, "'image_encoder.VPT'"),
    "CoOp's as CoCoOp's": ("coop_init", "CoCoOp", {}, "lacks 'prompt_learner.meta_net"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_checkpoint_that_does_not_fit_is_one_sentence(tiny_clip, case):
    stem, trainer, other, part = MISFITS[case]
    source = golden(stem)
    state = public_state(source.params, tiny_clip, source.meta["method"])
    node = {k: v for k, v in source.meta["config"].items() if k in METHODS[trainer].defaults}
    method = build_method(trainer, node | other, tiny_clip, list(COLOURS))
    with pytest.raises(UserError) as error:
        method.load_checkpoint(Saved.of({"state_dict": state}), list(COLOURS))
    assert part in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("stem", CASES_ONCE)
def test_ours_has_the_public_names_shapes_and_layout(tmp_path, stem):
    params, trainer, node = method_in(stem)
    folder, is_submodule = LAYOUT[trainer]
    extra = [*options(trainer, node), "OPTIM.STEPS", "1"]
    assert run(tmp_path, trainer, tmp_path / "ours", extra=extra) == 0
    file = tmp_path / "ours" / folder / "model.pth.tar-1"
    checkpoint = torch.load(file, weights_only=True)
    assert {"state_dict", "epoch", "optimizer", "scheduler", "val_result"} <= set(checkpoint)
    assert checkpoint["epoch"] == 1
    expected = {
        name.removeprefix("prompt_learner.") if is_submodule else name: value.shape
        for name, value in params.items()
    }
    assert {name: value.shape for name, value in checkpoint["state_dict"].items()} == expected
