"""`check-method` passes every method; mistakes are in `prompting/conformance/test_mistakes.py`."""

import pytest
from cases import slow_but
from paths import ROOT
from torch import nn

from benchmark.__main__ import main
from benchmark.inspect import check_method
from benchmark.protocols.configs import RULES, TrainerConfigs
from trainers.prompting import Added, LowRank, UserError, register
from trainers.prompting.conformance.checks import CHECKS, lines
from trainers.prompting.conformance.evaluations import check_kept
from trainers.prompting.method import METHODS
from trainers.prompting.methods.coop import CoOp
from trainers.prompting.plugins import load_plugins
from trainers.prompting.trainer import repeatability

EMOJI = ROOT / "configs" / "trainers" / "CoOp" / "emoji.yaml"


# ------------------------------------------------------------------ mistakes put into CoOp


class InANumber(CoOp):
    """An update inside the text encoder has a factor in an attribute."""

    def build(self, *given):
        super().build(*given)
        self.update = LowRank.of("v", self.widths["text"], 2, 1.0)
        nn.init.ones_(self.update.w_lora_B)

    def blocks(self, side):
        return {0: Added(weights={"v": self.update})} if side == "text" else {}


def test_text_that_is_kept_too_long(tmp_path):
    register(InANumber)
    run = check_method.short_run(EMOJI, "InANumber", str(tmp_path), {})
    run.read_tests()
    check_kept(run)
    run.method.update.scale = 3.0
    with pytest.raises(UserError, match="keeps text features of an earlier state"):
        check_kept(run)


# ------------------------------------------------------------------ methods without mistakes

MMP = {
    f"TRAINER.MMP.{key}": 2
    for key in ("VISION_PROMPT_NUMBER", "TEXT_PROMPT_NUMBER", "TEXT_PROMPT_DEPTH")
}
BUILT_IN = sorted(name for name, m in METHODS.items() if m.__module__.startswith("trainers."))
# A cache, a stream, stages; test_mistakes.py has a method with prompts.
EXAMPLES = {name: ROOT / "examples" / name / "emoji.yaml" for name in ("ATPrompt", "DePT")}
NOTED = [("note", "What is learned enters the logits of evaluations")]
NOTES = {"TextRefiner": NOTED, "DePT": NOTED}
FAST = ("TipAdapterF", "TDA", "TwoSFS")


def settings_of(name, tmp_path):
    """Return the config file of a method and KEY VALUE pairs; a student gets a teacher."""
    if name == "MMP":
        return ROOT / "configs" / "trainers" / "MaPLe" / "emoji.yaml", MMP
    pairs = {}
    if name == "PromptKD":
        file, _ = settings_of("PromptSRC", tmp_path)
        teacher = str(tmp_path / "teacher")
        check_method.short_run(file, "PromptSRC", teacher, {}).train()
        pairs = {"TRAINER.PROMPTKD.TEACHER": teacher}
    of_plugin = name in EXAMPLES
    file = EXAMPLES[name] if of_plugin else TrainerConfigs().find(RULES, name, "emoji", 1)
    if of_plugin:
        load_plugins([str(ROOT / "examples" / f"{name.lower()}.py")])
    return file, pairs


@pytest.mark.parametrize("name", slow_but([*BUILT_IN, *EXAMPLES], *FAST))
def test_every_method_passes(tmp_path, monkeypatch, name):
    """Built again from its state, it computes the same bits."""
    file, pairs = settings_of(name, tmp_path)
    rebuilt, apart = repeatability.rebuilt_apart, {}
    monkeypatch.setattr(
        repeatability, "rebuilt_apart", lambda *of: apart.update(rebuilt(*of)) or apart
    )
    own = str(tmp_path / "own")
    done = [*lines(lambda: check_method.short_run(file, name, own, pairs))]
    assert len(done) == 1 + len(CHECKS)
    wrong = [line for line in done if line[0] not in ("ok", "-")]
    assert [(state, title) for state, title, _ in wrong] == NOTES.get(name, [])
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
    found = capsys.readouterr().out.splitlines()
    assert len(found) == 27 and all(line[:2] in ("ok", "- ") for line in found), found
    assert "killed and resumed" in found[-2] and "half precision" in found[-1]


def test_the_command_of_a_mistake(tmp_path, capsys):
    plug_in = tmp_path / "probable_plugin.py"
    plug_in.write_text(
        PLUG_IN.replace("Alike", "Probable")
        .replace("{0} *", "")
        .replace("image, text)\n", "image, text).softmax(1)\n")
        .replace("text).softmax(1):", "text):")
    )
    file = ["--plugin", str(plug_in), "--config-file", str(EMOJI)]
    assert main(["check-method", "Probable", "--quick", *file]) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong ")]
    assert any("before softmax" in line for line in said)


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
