"""`check-method` finds mistakes that authors make, and passes every method of the registry."""

import pytest
import torch
import torch.nn.functional as F
from paths import ROOT
from torch import nn

from benchmark.__main__ import main
from benchmark.inspect import check_method
from benchmark.protocols.configs import RULES, TrainerConfigs
from trainers.prompting import Added, Contexts, LowRank, Stage, load_clip, register
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.trainer.again import rebuilt_apart

EMOJI = ROOT / "configs" / "trainers" / "CoOp" / "emoji.yaml"


pytestmark = pytest.mark.usefixtures("registered")


# ------------------------------------------------------------------ mistakes put into CoOp


def built(make):
    """Return a `build` that makes something after that of CoOp."""

    def build(self, *given):
        CoOp.build(self, *given)
        make(self, *given)

    return {"build": build}


def scored(change):
    """Return `logits` that change those of CoOp."""
    return {"logits": lambda self, image, text: change(self, CoOp.logits(self, image, text), image)}


def without_super(self, clip_model, classnames, dataset):
    self.own = nn.Linear(1, 1)


def made_anew(self, logits, image):
    self.scale = nn.Parameter(torch.ones(()))
    return self.scale * logits


def replaced(self, epoch, last):
    self.prompt_learner.ctx = nn.Parameter(self.prompt_learner.ctx.detach().clone())


def prototypes(self, features, labels):
    one_hot = F.one_hot(labels, self.num_classes).float()
    self.means = F.normalize(one_hot.T @ F.normalize(features[0], dim=-1), dim=-1)


def near_prototypes(self, logits, image):
    return logits + (image.z[:, 0] @ self.means.T if hasattr(self, "means") else 0)


def entered(self, stage):
    self.stage = stage


def counting(self, images):
    self.count = getattr(self, "count", 0) + 1
    output = CoOp.output(self, images)
    return output._replace(logits=output.logits * (1 + self.count))


def counting_loss(self, output, batch):
    self.count = getattr(self, "count", 0) + self.training
    return min(self.count / 10, 1.0) * CoOp.loss(self, output, batch)


def detached(self, output, batch):
    return {"ce": CoOp.loss(self, output, batch), "apart": output.text.h.detach().sum()}


def noisy(self):
    return Contexts([c + 0.1 * torch.randn_like(c) for c in CoOp.contexts(self).text])


def adapting(self, images):
    output = self.output(images)
    self.shift = getattr(self, "shift", 0) + output.logits.softmax(1).mean(0)
    return output._replace(logits=output.logits - 10 * self.shift)


def wrong_contexts(*lengths):
    return {"contexts": lambda self: Contexts([torch.zeros(1, b, 128) for b in lengths])}


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Conv1d(128, 128, 3, padding=1)

    def forward(self, x, y):
        return 0.1 * self.mix(x.transpose(-1, -2)).transpose(-1, -2)


class Without(LowRank):
    def __init__(self):
        nn.Module.__init__(self)


def adding(**given):
    def make(self, *_):
        self.here = nn.ModuleDict({name: kind() for name, kind in given.items()})

    def blocks(self, side):
        parts = dict(self.here.items())
        weights = {"q": parts.pop("q")} if "q" in parts else {}
        return {1: Added(weights=weights, **parts)} if side == "text" else {}

    return built(make) | {"blocks": blocks}


def by_value(self, logits, image):
    return logits * 2 if image.z.sum() > 0 else logits


def of_names(self, clip_model, classnames, dataset):
    lengths = [float(len(name)) for name in classnames]
    self.register_buffer("lengths", torch.tensor(lengths))


def a_teacher(self, clip_model, classnames, dataset):
    self.teacher = load_clip("emoji").requires_grad_(True)


def deeper(self, clip_model, classnames, dataset):
    self.heads = [nn.Linear(2, 2) for _ in range(2)]


MISTAKES = {
    # not registered, or not optimised
    "modules in a list": (built(deeper), "requires a gradient in 'heads.0.weight'"),
    "parameters in a dict": (
        built(lambda self, *_: setattr(self, "own", {"a": nn.Parameter(torch.ones(2))})),
        "requires a gradient in 'own.a'",
    ),
    "a tensor that requires a gradient": (
        built(lambda self, *_: setattr(self, "own", torch.ones(2, requires_grad=True))),
        "requires a gradient in 'own'",
    ),
    "a parameter of each step": (scored(made_anew), "has made, replaced or removed parameters"),
    "a parameter that is replaced": ({"after_epoch": replaced}, "(prompt_learner.ctx), which"),
    "a whole CLIP": (built(a_teacher), "would train 'teacher', a whole CLIP"),
    "a parameter that nothing reads": (
        built(lambda self, *_: setattr(self, "idle", nn.Parameter(torch.ones(2)))),
        "No gradient reaches idle",
    ),
    "a term without a gradient": ({"loss": detached}, "No gradient comes from apart of the loss"),
    # lost between training and evaluation
    "prototypes in a tensor": (
        {"support_passes": 1, "class_bound": True, "take_support": prototypes}
        | scored(near_prototypes),
        "The logits of Mistaken, built again from its checkpoint",
    ),
    "a stage in an attribute": (
        {"stages": lambda self: [Stage(share=0.5)] * 2, "begin_stage": entered, "stage": 0}
        | scored(lambda self, logits, image: logits * (1 + self.stage)),
        "The logits of Mistaken, built again from its checkpoint",
    ),
    "a counter that scales logits": ({"output": counting}, "built again from its checkpoint"),
    "a counter that scales the loss": (
        {"loss": counting_loss}, "The loss of Mistaken, built again from its checkpoint",
    ),
    # names
    "a misspelled hook": ({"image_feature": lambda self: 0}, "write `image_features` if"),
    "a misspelled attribute": ({"class_bounded": True}, "write `class_bound` if"),
    "forward": ({"forward": lambda self, images: images}, "overrides `forward`, which no training"),
    "no node": ({"node": None}, "Mistaken has no `node`"),
    # shapes
    "no super().build": ({"build": without_super}, "no attribute 'prompt_learner'"),
    "logits (B, 1, K)": (
        scored(lambda self, logits, image: logits[:, None]), "(4, 1, 19) but must have (4, 19)",
    ),
    "an empty loss": ({"loss": lambda self, output, batch: {}}, "has no terms"),
    "inserted tokens without a block": (
        {"contexts": lambda self: CoOp.contexts(self)._replace(inserted=torch.zeros(19, 4, 128))},
        "`inserted` tokens, but",
    ),
    "more tokens than slots": (wrong_contexts(5), "sentences with 4 learned tokens, but"),
    "later contexts that are longer": (wrong_contexts(4, 5), "none longer than the first"),
    "more depths than blocks": (wrong_contexts(*[4] * 5), "has 4 blocks"),
    "a bypass that mixes positions": (adding(beside=Convolution), "depends on other positions"),
    "an update without tensors": (adding(q=Without), "a Without without `shape` or"),
    # evaluation
    "random contexts": ({"contexts": noisy}, "predicts otherwise on a second call"),
    "state that predictions change": ({"predict": adapting}, "built again from its checkpoint"),
    "probabilities": (
        scored(lambda self, logits, image: logits.softmax(1)), "probabilities, which sum to one",
    ),
    "logarithms of probabilities": (
        scored(lambda self, logits, image: logits.log_softmax(1)), "logarithms of probabilities",
    ),
    "means over the batch": (
        scored(lambda self, logits, image: logits - logits.mean(0)), "than in a batch",
    ),
    "a norm over the classes": (
        scored(lambda self, logits, image: 10 * F.normalize(logits, dim=1)), "among more classes",
    ),
    "a buffer of class names": (built(of_names), "'lengths'"),
    "a condition on values": (scored(by_value), "Data"),
}  # fmt: skip


def found(kind, file=EMOJI, folder="", pairs=None, checks=None):
    """Return what is wrong with a method."""
    sources = check_method.keys_of(file, kind.__name__, folder, pairs or {})

    def run():
        register(kind)
        return check_method.trained(sources, [])

    return [why for state, _, why in check_method.lines(run) if state == "wrong"]


@pytest.fixture
def without_export(monkeypatch):
    """Leave out the export, which takes longer than all the rest."""
    checks = tuple(c for c in check_method.CHECKS if c is not check_method.check_export)
    monkeypatch.setattr(check_method, "CHECKS", checks)


@pytest.mark.parametrize("case", [case for case in MISTAKES if case != "a condition on values"])
def test_a_mistake_is_found(tmp_path, without_export, case):
    body, said = MISTAKES[case]
    name = f"Mistaken{[*MISTAKES].index(case)}"  # which Dassl's registry keeps
    wrong = found(type(name, (CoOp,), dict(body)), folder=str(tmp_path))
    assert any(said.replace("Mistaken", name) in why for why in wrong), wrong
    assert all("\n" not in why for why in wrong)


def test_a_program_that_does_not_export(tmp_path):
    body, said = MISTAKES["a condition on values"]
    wrong = found(type("Conditional", (CoOp,), dict(body)), folder=str(tmp_path))
    assert len(wrong) == 1 and said in wrong[0], wrong


# ------------------------------------------------------------------ methods without mistakes

MMP = {
    f"TRAINER.MMP.{key}": 2
    for key in ("VISION_PROMPT_NUMBER", "TEXT_PROMPT_NUMBER", "TEXT_PROMPT_DEPTH")
}
BUILT_IN = sorted(name for name, m in METHODS.items() if m.__module__.startswith("trainers."))


def settings_of(name, tmp_path):
    """Return the config file of a method and KEY VALUE pairs; a student gets a teacher."""
    if name == "MMP":
        return ROOT / "configs" / "trainers" / "MaPLe" / "emoji.yaml", MMP
    pairs = {}
    if name == "PromptKD":
        file, _ = settings_of("PromptSRC", tmp_path)
        teacher = str(tmp_path / "teacher")
        check_method.trained(check_method.keys_of(file, "PromptSRC", teacher, {}), [])
        pairs = {"TRAINER.PROMPTKD.TEACHER": teacher}
    return TrainerConfigs().find(RULES, name, "emoji", 1), pairs


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_method_passes(tmp_path, without_export, name):
    """Built again from its state, it computes the same bits."""
    file, pairs = settings_of(name, tmp_path)
    sources, runs = check_method.keys_of(file, name, str(tmp_path / "own"), pairs), []

    def run():
        runs.append(check_method.trained(sources, []))
        return runs[0]

    states = {title: (state, why) for state, title, why in check_method.lines(run)}
    assert not {title: why for title, (state, why) in states.items() if state == "wrong"}
    trainer = runs[0].trainer
    data = trainer.dm.dataset
    place = trainer.clip_model, data.classnames, data.other_classnames, trainer.cfg.DATASET.NAME
    apart = rebuilt_apart(trainer.method, *place, trainer.precision)
    assert set(apart.values()) == {0.0}


PLUG_IN = """
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp


@register
class Alike(CoOp):
    def logits(self, image, text):
        return {0} * super().logits(image, text)
"""


@pytest.mark.slow
@pytest.mark.processes
def test_the_command(tmp_path, capsys):
    """Of a plug-in, with all processes."""
    plug_in = tmp_path / "alike_plugin.py"
    plug_in.write_text(PLUG_IN.replace("{0}", "2"))
    arguments = ["check-method", "Alike", "--plugin", str(plug_in), "--config-file", str(EMOJI)]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and all(line.startswith("ok ") for line in lines), lines
    assert "killed and resumed" in lines[-2] and "half precision" in lines[-1]


def test_the_command_of_a_mistake(tmp_path, capsys):
    plug_in = tmp_path / "probable_plugin.py"
    plug_in.write_text(
        PLUG_IN.replace("Alike", "Probable")
        .replace("{0} *", "")
        .replace("image, text)\n", "image, text).softmax(1)\n")
        .replace("text).softmax(1):", "text):")
    )
    code = main(["check-method", "Probable", "--plugin", str(plug_in), "--config-file", str(EMOJI)])
    said = capsys.readouterr().out.splitlines()
    assert code == 1 and said[-1].startswith("wrong ") and "before softmax" in said[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["Nothing"], "There is no trainer 'Nothing'"),
        (["CoOp", "--config-file", "no.yaml"], "no.yaml"),
        (["CoOp", "OPTIM.LR"], "not KEY VALUE"),
        (["CoOp", "--quick", "OPTIM.LRATE", "1"], "OPTIM.LRATE"),
    ],
)
def test_bad_arguments(capsys, arguments, said):
    assert main(["check-method", *arguments]) != 0
    printed = capsys.readouterr()
    assert said in printed.err + printed.out and "Traceback" not in printed.err


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("name", ["ALIGN", "TwoSFS", "PromptSRC", "CLIPLoRA", "GalLoP"])
def test_processes_of_built_in_methods(capsys, name):
    assert main(["check-method", name]) == 0, capsys.readouterr().out
