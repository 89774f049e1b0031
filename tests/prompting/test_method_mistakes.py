"""Plug-ins: how they load, and their mistakes: one sentence each, and nothing is recorded."""

import json
import sys

import pytest
import tiny
import torch
from test_method import IMAGES, LABELS, Mine, build
from torch import nn

import datasets  # noqa: F401 (or each plug-in would register them)
from trainers.prompting import Contexts, Method, Staged, UserError, plugins, register
from trainers.prompting.method import METHODS
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step
from trainers.prompting.trainer.checks import check_first_step


def step(method):
    """Do one training step."""
    optimizer = torch.optim.SGD(method.learned().values(), lr=0.1)
    precision = Precision("fp32", torch.device("cpu"))
    return training_step(method.train(), method.batch(IMAGES, LABELS), optimizer, precision)


class Lazy(Mine):
    def backward(self, terms, scale=None):
        pass


def test_a_backward_that_leaves_no_gradient(tiny_clip):
    method = build(Lazy, tiny_clip)
    _, terms = step(method)
    with pytest.raises(UserError, match="`backward` of Lazy leaves no gradient"):
        check_first_step(method, terms)


def contexts_of(text=(4, 4), vision=(4, 4)):
    """Return contexts with these numbers of tokens for each block."""
    return Contexts(
        *([torch.zeros(1, b, 128) for b in side] if side else None for side in (text, vision))
    )


SHAPES = {
    "longer deep": contexts_of((4, 5)),
    "shorter first": contexts_of((3, 3)),
    "longer first": contexts_of((5, 5)),
    "too deep": contexts_of((4,) * 9),
    "longer deep visual": contexts_of(vision=(4, 5)),
    "of each class": Contexts([torch.zeros(1, 3, 4, 128)]),
    "too deep visual": contexts_of(vision=(4,) * 5),
}


def like(name, **functions):
    """Return a method like another, but with these functions."""
    return type("Changed", (METHODS[name],), functions)


@pytest.mark.parametrize("case", SHAPES)
def test_contexts_that_do_not_fit(tiny_clip, case):
    node = {"N_CTX_TEXT": 4, "N_CTX_VISION": 4, "PROMPT_DEPTH_TEXT": 2, "PROMPT_DEPTH_VISION": 2}
    for good in (contexts_of(), contexts_of((4, 2)), contexts_of(None, None)):
        kind = like("IVLP", contexts=lambda self, good=good: good)
        assert build(kind, tiny_clip, **node)(IMAGES).shape == (4, 3)
    side = "image" if "visual" in case else "text"
    with pytest.raises(UserError, match=f"The {side} encoder has 4 blocks.*contexts") as error:
        build(like("IVLP", contexts=lambda self: SHAPES[case]), tiny_clip, **node)
    assert "\n" not in str(error.value)


def test_text_contexts_of_a_method_without_textual_prompts(tiny_clip):
    with pytest.raises(UserError, match="and sentences with 0 learned tokens"):
        kind = like("VPT", contexts=lambda self: contexts_of((4, 4)))
        build(kind, tiny_clip, PROMPT_DEPTH_VISION=2)


def test_settings_that_are_no_dataclass():
    bare = type("Bare", (Mine,), {"Settings": type("Settings", (Method.Settings,), {})})
    before = dict(METHODS)
    with pytest.raises(UserError, match="`Settings` of Bare is not a dataclass"):
        register(bare)
    assert before == METHODS


CoOp = METHODS["CoOp"]


def mistaken(name, **functions):
    return type(name, (Staged, CoOp), functions)


def detached(self, output, batch):
    return {"ce": CoOp.loss(self, output, batch), "apart": output.text.h.detach().sum()}


def replaced(self, image, text):
    self.scale = nn.Parameter(torch.ones((), device=image.z.device))
    return self.scale * CoOp.logits(self, image, text)


def replaced_later(self, epoch, last):
    self.prompt_learner.ctx = nn.Parameter(self.prompt_learner.ctx.detach().clone())


def listed(self, image, text):
    if not hasattr(self, "heads"):
        self.heads = [nn.Linear(1, 1)]
    return self.heads[0](CoOp.logits(self, image, text)[..., None])[..., 0]


RUNS = {
    "Replaced": ({"logits": replaced}, "Replaced has made, replaced or removed parameters"),
    "Later": ({"after_epoch": replaced_later}, "after `build` (prompt_learner.ctx), which its"),
    "Listed": ({"logits": listed}, "Listed keeps a tensor that requires a gradient in 'heads.0"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_with_a_sentence(tmp_path, capsys, name):
    functions, said = RUNS[name]
    register(mistaken(name, **functions))
    assert tiny.run(tmp_path, name, None, 1) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.glob("output/*/model*"))


def test_terms_of_a_loss_that_train_nothing(tmp_path, capsys):
    register(mistaken("Apart", loss=detached))
    assert tiny.run(tmp_path, "Apart", None, 1) == 0
    said = "No gradient comes from apart of the loss of Apart: nothing learns it"
    assert capsys.readouterr().out.count(said) == 1
    losses = json.loads((tmp_path / "output" / "results.json").read_text())["losses"]
    assert losses.keys() == {"loss", "ce", "apart", "acc"}
    assert losses["loss"] == pytest.approx(losses["ce"] + losses["apart"], rel=1e-5)


# ------------------------------------------------------------------ plug-ins that do not load

METHOD = """
from dataclasses import dataclass

from trainers.prompting import Method, register


@register
class {name}(Method):
    node = "MINE"

    @dataclass(frozen=True)
    class Settings(Method.Settings):
        PREC: str = "fp32"
"""
DATASET = """
from dassl.data.datasets import DATASET_REGISTRY
from datasets import ImageDataset


@DATASET_REGISTRY.register()
class {name}(ImageDataset):
    pass
"""


@pytest.fixture
def load(tmp_path, monkeypatch, capsys):
    """A function that loads plug-ins and returns the printed text; all is unloaded at the end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    modules = set(sys.modules)

    def load(*names) -> str:
        try:
            plugins.load_plugins(names)
        except UserError as error:
            print("refused:", error)
        return "".join(capsys.readouterr())

    yield load
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["mine.py", "mine", "package.methods.mine"])
def test_a_file_a_module_and_an_installed_package(tmp_path, load, name):
    path = tmp_path / (name if name.endswith(".py") else name.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(METHOD.format(name="Mine") + DATASET.format(name="Ours"))
    assert load(name, name) == f"Plug-in '{name}': Mine, Ours\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("1 / 0", "does not import (ZeroDivisionError: division by zero, in line 1 of '"),
        ("x = 1\nimport nowhere", "No module named 'nowhere', in line 2 of '"),
        ("import json\n\njson.loads('x')", "line 1 column 1 (char 0), in line 3 of '"),
        ("import helper", "(ZeroDivisionError: division by zero, in line 2 of '"),
        ("def broken(:", "does not import (SyntaxError"),
        ("x = 1", "registers no method and no data set: put `@register`"),
        (DATASET.format(name="FGVCAircraft"), "'FGVCAircraft' is already registered in DATASET"),
        (METHOD.format(name="CoOp"), "registers a method 'CoOp', but trainers.prompting.methods"),
        (None, "There is no plug-in file 'mine.py'"),
    ],
)
def test_a_broken_plugin_is_one_sentence(tmp_path, load, content, sentence):
    (tmp_path / "helper.py").write_text("def f():\n    1 / 0\n\n\nf()\n")
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    printed = load("mine.py")
    assert printed.startswith("refused: ") and sentence in printed
    assert printed.count("\n") == 1


def test_a_file_with_the_name_of_a_loaded_module(tmp_path, load):
    (tmp_path / "plugins").mkdir()  # in a folder, as json.py would shadow the real module
    (tmp_path / "plugins" / "json.py").write_text(METHOD.format(name="Mine"))
    assert "has the name of a module that is already loaded" in load("plugins/json.py")
