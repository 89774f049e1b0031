"""`check-method` finds mistakes that authors make, and passes every method of the registry.

More mistakes are in `test_steps.py`, and those that runs find in `test_contract.py`,
`test_contract_steps.py` and `test_again.py`.
"""

import pytest
import torch
import torch.nn.functional as F
from cases import slow_but
from paths import ROOT
from torch import nn

from benchmark.__main__ import main
from benchmark.inspect import check_method
from benchmark.protocols.configs import RULES, TrainerConfigs
from trainers.prompting import Contexts, Stage, register
from trainers.prompting.conformance import checks
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.trainer import repeatability

EMOJI = ROOT / "configs" / "trainers" / "CoOp" / "emoji.yaml"


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


def made_anew(self, logits, image):
    self.scale = nn.Parameter(torch.ones(()))
    return self.scale * logits


def entered(self, stage):
    self.stage = stage


def counting(self, images):
    self.count = getattr(self, "count", 0) + 1
    output = CoOp.output(self, images)
    return output._replace(logits=output.logits * (1 + self.count))


def detached(self, output, batch):
    return {"ce": CoOp.loss(self, output, batch), "apart": output.text.h.detach().sum()}


def noisy(self):
    return Contexts([c + 0.1 * torch.randn_like(c) for c in CoOp.contexts(self).text])


def wrong_contexts(*lengths):
    return {"contexts": lambda self: Contexts([torch.zeros(1, b, 128) for b in lengths])}


def by_value(self, logits, image):
    return logits * 2 if image.z.sum() > 0 else logits


def of_names(self, clip_model, classnames, dataset):
    lengths = [float(len(name)) for name in classnames]
    self.register_buffer("lengths", torch.tensor(lengths))


MISTAKES = {
    # not registered, or not optimised
    "a parameter of each step": (scored(made_anew), "has made, replaced or removed parameters"),
    "a parameter that nothing reads": (
        built(lambda self, *_: setattr(self, "idle", nn.Parameter(torch.ones(2)))),
        "No gradient reaches idle",
    ),
    "a term without a gradient": ({"loss": detached}, "No gradient comes from apart of the loss"),
    # lost between training and evaluation
    "a stage in an attribute": (
        {"stages": lambda self: [Stage(share=0.5)] * 2, "begin_stage": entered, "stage": 0}
        | scored(lambda self, logits, image: logits * (1 + self.stage)),
        "The logits of Mistaken, built again from its checkpoint",
    ),
    "a counter that scales logits": ({"output": counting}, "built again from its checkpoint"),
    # names
    "a misspelled hook": ({"image_feature": lambda self: 0}, "write `image_features` if"),
    # shapes
    "an empty loss": ({"loss": lambda self, output, batch: {}}, "has no terms"),
    "more tokens than slots": (wrong_contexts(5), "sentences with 4 learned tokens, but"),
    "later contexts that are longer": (wrong_contexts(4, 5), "none longer than the first"),
    "more depths than blocks": (wrong_contexts(*[4] * 5), "has 4 blocks"),
    # evaluation
    "random contexts": ({"contexts": noisy}, "predicts otherwise on a second call"),
    "probabilities": (
        scored(lambda self, logits, image: logits.softmax(1)), "probabilities, which sum to one",
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


def found(kind, file=EMOJI, folder="", pairs=None):
    """Return what is wrong with a method."""
    sources = check_method.short_keys(file, kind.__name__, folder, pairs or {})

    def run():
        register(kind)
        return check_method.train_briefly(sources, [])

    return [why for state, _, why in checks.lines(run) if state == "wrong"]


@pytest.fixture
def without_export(monkeypatch):
    """Leave out the export, and the step on `meta`, which take longer than all the rest."""
    slow = checks.check_export, checks.check_devices
    rest = tuple(c for c in checks.CHECKS if c not in slow)
    monkeypatch.setattr(checks, "CHECKS", rest)


QUICK = (
    "a parameter of each step",
    "a misspelled hook",
    "random contexts",
    "a term without a gradient",
)
SHORT = [case for case in MISTAKES if case != "a condition on values"]


@pytest.mark.parametrize("case", slow_but(SHORT, *QUICK))
def test_a_mistake_is_found(tmp_path, without_export, monkeypatch, case):
    monkeypatch.setattr(checks, "CHECKS", checks.CHECKS[2:])  # on the build
    body, said = MISTAKES[case]
    name = f"Mistaken{[*MISTAKES].index(case)}"  # which Dassl's registry keeps
    wrong = found(type(name, (CoOp,), dict(body)), folder=str(tmp_path))
    assert any(said.replace("Mistaken", name) in why for why in wrong), wrong
    assert all("\n" not in why for why in wrong)


@pytest.mark.slow
def test_a_program_that_does_not_export(tmp_path):
    body, said = MISTAKES["a condition on values"]
    on_meta, exported = found(type("Conditional", (CoOp,), dict(body)), folder=str(tmp_path))
    assert on_meta.startswith("A step reads the value of a tensor") and said in exported


# ------------------------------------------------------------------ methods without mistakes

MMP = {
    f"TRAINER.MMP.{key}": 2
    for key in ("VISION_PROMPT_NUMBER", "TEXT_PROMPT_NUMBER", "TEXT_PROMPT_DEPTH")
}
BUILT_IN = sorted(name for name, m in METHODS.items() if m.__module__.startswith("trainers."))
# A cache, a stream, stages; test_steps.py has a method with prompts.
QUICK = ("TipAdapterF", "TDA", "TwoSFS")


def settings_of(name, tmp_path):
    """Return the config file of a method and KEY VALUE pairs; a student gets a teacher."""
    if name == "MMP":
        return ROOT / "configs" / "trainers" / "MaPLe" / "emoji.yaml", MMP
    pairs = {}
    if name == "PromptKD":
        file, _ = settings_of("PromptSRC", tmp_path)
        teacher = str(tmp_path / "teacher")
        check_method.train_briefly(check_method.short_keys(file, "PromptSRC", teacher, {}), [])
        pairs = {"TRAINER.PROMPTKD.TEACHER": teacher}
    return TrainerConfigs().find(RULES, name, "emoji", 1), pairs


@pytest.mark.parametrize("name", slow_but(BUILT_IN, *QUICK))
def test_every_method_passes(tmp_path, without_export, monkeypatch, name):
    """Built again from its state, it computes the same bits."""
    file, pairs = settings_of(name, tmp_path)
    sources = check_method.short_keys(file, name, str(tmp_path / "own"), pairs)
    rebuilt, apart = repeatability.rebuilt_apart, {}
    monkeypatch.setattr(
        repeatability, "rebuilt_apart", lambda *of: apart.update(rebuilt(*of)) or apart
    )
    lines = [*checks.lines(lambda: check_method.train_briefly(sources, []))]
    assert len(lines) == 1 + len(checks.CHECKS)
    assert not [line for line in lines if line[0] == "wrong"]
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
    assert len(lines) == 17 and all(line.startswith("ok ") for line in lines), lines
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
@pytest.mark.parametrize("name", ["ALIGN", "TwoSFS"])  # others are in tests/faults/kills.py
def test_processes_of_built_in_methods(capsys, name):
    assert main(["check-method", name]) == 0, capsys.readouterr().out
