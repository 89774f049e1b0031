"""Loading runs: what is refused in a checkpoint, and plug-ins that it names and nobody trusts."""

import os
import re

import pytest
import torch
from fresh import run_fresh
from paths import GOLDEN, ROOT
from tiny import edit_run

from benchmark.__main__ import main
from trainers.prompting import UserError, load_run
from trainers.prompting.plugins import load_plugins

FILE = "prompt_learner/model.pth.tar-1"


def images_of(root):
    return sorted((root / "tiny_colours").glob("test_*.png"))


@pytest.fixture
def state(runs):
    """The content of CoOp's checkpoint."""
    return torch.load(runs / "CoOp" / FILE, weights_only=True)


@pytest.fixture
def save(runs):
    """A function that writes a run with this content of its checkpoint, and other settings."""

    def write(state, folder, **settings):
        (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
        dropped = "run", "identity"  # whose settings are changed
        torch.save({key: x for key, x in state.items() if key not in dropped}, folder / FILE)
        edit_run(folder, state.get("run", settings), runs / "CoOp")
        return folder

    return write


def predict(capsys, folder, image, *more):
    code = main(["predict", "--model-dir", str(folder), str(image), *map(str, more)])
    out = capsys.readouterr()
    return code, out.out, out.err


def changed(**parts):
    return lambda state: state | parts


def setting(key, value):
    """Return a change of a setting, and what is said of it."""
    return changed(run={key: value}), f"for the setting {key}, which is impossible"


def context(change):
    return lambda state: state | {"state_dict": {"ctx": change(state["state_dict"]["ctx"])}}


NOTHING = "does not say what made it"
OTHER = "is not of the run that run.json"
WRONG = {  # the change of a checkpoint, and what is said
    "of public code": (lambda x: {k: x[k] for k in ("state_dict", "epoch")}, NOTHING),
    "class names": (changed(classnames=7), "has no valid 'classnames'"),
    "epoch": (changed(epoch=None), NOTHING),
    "plug-ins": (changed(plugins=3), "has no valid 'plugins'"),
    "weights": (changed(backbone="/gone/clip.pt"), "no file is called '/gone/clip.pt'"),
    "another method": (changed(trainer="KgCoOp"), OTHER),
    "another CLIP": (changed(backbone_sha256="0" * 64), OTHER),
    "a text for all": (changed(state_dict="x"), "has no valid 'state_dict'"),
    "a text": (context(lambda ctx: "x"), "is a str and no"),
    "sparse": (context(torch.Tensor.to_sparse), "is a Tensor of torch.float32 (torch.sparse_coo)"),
    "nested": (context(lambda ctx: torch.nested.nested_tensor([ctx])), "and not a dense tensor"),
    "whole numbers": (context(torch.Tensor.long), "is a Tensor of torch.int64"),
    "complex": (context(lambda ctx: ctx.to(torch.complex64)), "is a Tensor of torch.complex64"),
    "too large": (context(lambda ctx: ctx.double() + 1e300), "are not finite"),
    "a number for a list": setting("INPUT.TRANSFORMS", 7),
    "a word for a number": setting("DATASET.NUM_SHOTS", "many"),
    "a word for a number of the method": (
        changed(run={"TRAINER.COOP.N_CTX": "x"}),
        "TRAINER.COOP.N_CTX is 'x' but must be a whole number",
    ),
    "a long word": setting("DATASET.NUM_SHOTS", "-" * 100_000 + "1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_that_cannot_be_used_is_one_sentence(
    runs, state, save, capsys, tmp_path, case
):
    change, said = WRONG[case]
    save(change(state), tmp_path)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        load_run(tmp_path)
    assert len(str(error.value)) < 500
    code, out, err = predict(capsys, tmp_path, images_of(runs)[0])
    assert code == 2 and not out and err.count("\n") == 1 and said in err


def test_a_run_whose_weights_have_moved(runs, state, save, capsys, tmp_path):
    save(state | {"backbone": "/gone/clip.pt"}, tmp_path)
    moved = "--backbone", GOLDEN / "tiny_clip_seed0.safetensors"
    assert predict(capsys, tmp_path, images_of(runs)[0], *moved)[0] == 0


def test_a_context_for_each_class_has_no_other_classes(state, save, tmp_path):
    save(state, tmp_path, **{"TRAINER.COOP.CSC": True})
    with pytest.raises(UserError, match=r"of its training: use it only on those classes"):
        load_run(tmp_path, classnames=["river", "forest"])


def test_paths_that_are_not_a_run_folder_are_reported(runs, capsys, tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (tmp_path / "gone", file):
        why = "holds no run to load, as there is no such folder: give the output folder of one run"
        with pytest.raises(UserError, match=f"'{folder}' {why}"):
            load_run(folder)
    with pytest.raises(UserError, match=f"'{tmp_path}' holds no run to load"):
        load_run(tmp_path)
    (tmp_path / "prompt_learner" / "model.pth.tar-1").mkdir(parents=True)
    code, _, err = predict(capsys, tmp_path, images_of(runs)[0])
    assert code == 2 and "model.pth.tar-1', a file" in err


def test_a_run_loads_without_its_record(state, save, tmp_path):
    """The checkpoint is enough; even a folder called results.json does not matter."""
    names = [*state["classnames"][:3], state["classnames"][0]]  # as some classes of ImageNet have
    save(state | {"classnames": names}, tmp_path)
    (tmp_path / "results.json").mkdir()
    assert load_run(tmp_path).classnames == names


PLUGIN = """
from pathlib import Path
from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp

Path(__file__).with_name("imported").touch()


@register
class Mine(CoOp):
    node = "MINE"
"""


@pytest.fixture
def run_of_plugin(state, save, tmp_path):
    """Return the folder of a run whose checkpoint names a plug-in: `mine.py` in that folder."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mine.py").write_text(PLUGIN)
    state |= {"trainer": "Mine", "plugins": [str(folder / "mine.py")]}
    save(state, folder)
    path = folder / "run.json"
    text = path.read_text().replace("TRAINER.COOP", "TRAINER.MINE")
    path.write_text(text.replace('"method": "CoOp"', '"method": "Mine"'))
    return folder


def commands(folder, runs):
    use = {
        "predict": [str(images_of(runs)[0])],
        "export": ["--output", str(folder / "x.safetensors")],
        "words": [],
        "visualize": [],
    }
    return [[name, "--model-dir", str(folder), *more] for name, more in use.items()]


@pytest.mark.parametrize("i", range(4), ids=["predict", "export", "words", "visualize"])
def test_a_plugin_that_only_a_checkpoint_names_is_not_imported(run_of_plugin, runs, capsys, i):
    plugin = run_of_plugin / "mine.py"
    command = commands(run_of_plugin, runs)[i]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is of Mine, a method of the plug-in '{plugin}', which is code" in line
    assert "--plugin" in line and "--trust-run" in line
    assert not (run_of_plugin / "imported").exists()
    with pytest.raises(UserError, match="which is code"):
        load_run(run_of_plugin)


@pytest.mark.parametrize("how", ["--plugin", "--trust-run", "plugins", "trust", "imported"])
def test_a_plugin_that_the_user_names_or_trusts_is_imported_and_printed(
    run_of_plugin, runs, capsys, how
):
    plugin = str(run_of_plugin / "mine.py")
    if how.startswith("--"):
        command, *_ = commands(run_of_plugin, runs)
        assert main([*command, how, *([plugin] if how == "--plugin" else [])]) == 0
    else:
        if how == "imported":
            load_plugins([plugin])
        load_run(run_of_plugin, **{"plugins": {how: [plugin]}, "trust": {how: True}}.get(how, {}))
    out = capsys.readouterr()
    assert f"Plug-in '{plugin}': Mine" in out.err.splitlines() and "Plug-in" not in out.out
    assert (run_of_plugin / "imported").exists()


WITHOUT = """
import sys
for name in ("yacs", "yacs.config", "dassl"):
    sys.modules[name] = None  # whoever imports it fails
word, *argv = sys.argv[1:]
if word == "load_run":
    from trainers.prompting import load_run
    code = load_run(argv[0]).model.num_classes != 4
else:
    from trainers.prompting.use.commands import main
    if word == "serve":
        import uvicorn
        uvicorn.Server.run = lambda server, sockets: None
    code = main([word, *argv])
ours = [name for name in sys.modules if name.startswith("trainers.prompting")]
print(len(ours), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("method", ["ALIGN", "CoOp"])
@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("load_run", 110),
        ("predict --model-dir", 120),
        ("export --output a.safetensors --model-dir", 120),
        ("serve --port 0", 120),
        ("info", 180),  # which knows all methods
    ],
)
def test_a_run_is_used_without_dassl_and_yacs(runs, tmp_path, words, most, method):
    word, *argv = words.split()
    if word == "serve":
        pytest.importorskip("uvicorn")
        pytest.importorskip("starlette")
    if word == "export" and method == "ALIGN":
        argv[1] = "a.pt2"
    argv += [str(runs / method)] + [str(images_of(runs)[0])] * (word == "predict")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = run_fresh(WITHOUT, word, *argv, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) <= most
