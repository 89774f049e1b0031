"""Functions on the files of checkpoints, and what values in them must be, at their bounds."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from trainers.prompting import UserError, build_method, load_clip
from trainers.prompting.checkpoint.files import (
    broken_checkpoint,
    find_checkpoint,
    marked_epoch,
    only_model,
    remove_earlier,
    saved_epochs,
)
from trainers.prompting.checkpoint.identity import Identity, write_run
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.checkpoint.state import digests_by_class, load_parameters
from trainers.prompting.storage.run_record import flaw
from trainers.prompting.storage.values import check_dense, is_sound


@pytest.fixture
def folder(tmp_path):
    """A folder with checkpoints of epochs 2, 3, 10, and other files."""
    folder = tmp_path / "prompt_learner"
    folder.mkdir()
    for name in ("-2", "-10", "-3", "-x", ""):
        (folder / f"model.pth.tar{name}").touch()
    (folder / "checkpoint").write_text("model.pth.tar-3\nmodel.pth.tar-9\n")
    return folder


def test_the_epochs_of_a_folder(folder):
    assert saved_epochs(str(folder)) == [2, 3, 10] and saved_epochs(str(folder / "no")) == []
    assert marked_epoch(str(folder)) == 3 and marked_epoch(str(folder / "no")) == 0
    for text in ("", "model.pth.tar-x", "\xff"):
        (folder / "checkpoint").write_text(text, encoding="latin-1")
        assert marked_epoch(str(folder)) == 0
    assert find_checkpoint(str(folder), None).endswith("tar-10")
    assert find_checkpoint(str(folder), 2).endswith("tar-2")
    with pytest.raises(UserError, match="no checkpoint '.*tar-4': give --model-dir"):
        find_checkpoint(str(folder), 4)
    (folder / "model-best.pth.tar").touch()
    assert find_checkpoint(str(folder), None).endswith("model-best.pth.tar")
    with pytest.raises(UserError, match="no checkpoint '.*model-best"):
        find_checkpoint(str(folder / "no"), None)


@pytest.mark.parametrize(
    ("epoch", "every", "left"),
    [(10, 0, [10]), (10, 2, [2, 10]), (10, 3, [3, 10]), (3, 0, [3, 10]), (10, -1, [10]),
     (11, 5, [10])],
)  # fmt: skip
def test_earlier_epochs_are_removed_but_every_so_many(folder, epoch, every, left):
    remove_earlier(str(folder), epoch, every)
    assert saved_epochs(str(folder)) == left


def test_the_remedies_for_a_broken_checkpoint(folder):
    said = str(broken_checkpoint(str(folder), 10, "is odd"))
    assert "tar-10' is odd: delete '" in said and "write 'model.pth.tar-3' into it" in said
    for epoch in (2, 3):
        (folder / f"model.pth.tar-{epoch}").unlink()
    assert str(broken_checkpoint(str(folder), 10, "is odd")).endswith("to train from the start")


def test_the_one_model_in_a_place(folder):
    for place, below in ((folder, ""), (folder, "**/"), (folder.parent, "*/")):
        assert only_model(place, below, "x", "do") == str(folder)
    (folder / "other").mkdir()
    (folder / "other" / "model.pth.tar-1").touch()
    assert only_model(folder.parent, "*/", "x", "do") == str(folder)
    for place, below, why in (
        (folder / "no", "**/", "there is no such folder"),
        (folder / "model.pth.tar-2", "**/", "there is no such folder"),
        (folder.parent, "", "it has no checkpoint .model.pth.tar-EPOCH."),
        (folder, "**/", "it has several models"),
    ):
        with pytest.raises(UserError, match=f"^x holds no run to load, as {why}: do$"):
            only_model(place, below, "x", "do")


def test_tensors_that_can_be_loaded():
    dense = torch.ones(2)
    others = [1, None, dense.to_sparse(), dense.to("meta"), dense.to(torch.complex64)]
    for value in others:
        with pytest.raises(UserError, match="'x' is a .* and not a dense tensor"):
            check_dense("x", value)
    check_dense("x", dense.long())
    with pytest.raises(UserError, match="'x' is a Tensor of torch.int64"):
        check_dense("x", dense.long(), trained=True)


def test_parameters_take_the_values_of_their_public_names():
    def load(state, **sizes):
        own = {f"m.{name}": torch.nn.Parameter(torch.zeros(size)) for name, size in sizes.items()}
        load_parameters(own, state, lambda name: name == "old", "m.")
        return own

    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(load({"m.x": x, "old": 1}, x=(2, 3))["m.x"], x)
    assert torch.equal(load({"x": x}, x=(1, 2, 3))["m.x"], x[None])
    assert torch.equal(load({"x": x[None, None]}, x=(2, 3))["m.x"], x)
    assert torch.equal(load({"x": x}, x=(0, 3))["m.x"], x)  # a length that was not known
    for state, sizes, said in (
        ({"x": x, "y": x}, {"x": (2, 3)}, "has 'y', which this method lacks"),
        ({"x": x}, {"x": (2, 3), "y": (1,)}, "lacks 'm.y'"),
        ({"x": x}, {"x": (3, 2)}, r"shape \(2, 3\), but the method's has \(3, 2\)"),
        ({"x": x}, {"x": (0, 2)}, r"shape \(3,\), but the method's has \(2,\)"),
        ({"x": x / 0}, {"x": (2, 3)}, "numbers that are not finite"),
    ):
        with pytest.raises(UserError, match=said):
            load(state, **sizes)


def test_numbers_of_records():
    assert not any(flaw({"accuracy": value}) for value in (0, 0.0, 1, 100, 100.0))
    for value in (-1e-9, 100.001, float("inf"), float("nan"), True, "1"):
        assert "which is not from 0 to 100" in flaw({"accuracy": value})
    for record in ([], {}, {"accuracy": None}):
        assert flaw(record) == "holds no accuracy"
    assert flaw({"accuracy": "x" * 50}) == f'holds accuracy "{"x" * 39}, which is not from 0 to 100'


def test_buffers_that_are_sound_or_depend_on_classes():
    assert is_sound(torch.tensor([1.0, float("inf")])) and is_sound("text")
    assert not is_sound(torch.tensor([1.0, float("nan")]))
    assert is_sound(torch.tensor([[float("nan")]]).to_sparse())
    buffers = {"a": torch.zeros(3, 2), "b": torch.zeros(2), "c": torch.zeros(0, 3), "d": "text"}
    found = digests_by_class(buffers, 3)
    assert [*found] == ["a"] and found["a"] != digests_by_class({"a": torch.ones(3, 2)}, 3)["a"]


COMPUTED = {"precision": "float32 + float16", "processor": "a CPU"}
IMAGES = {"division": None, "trained_on": torch.tensor([1])}
TRAITS = {"logit_scale": 1.0, "normalised": True, "width": 2, "text": {"{}": {"a": torch.ones(2)}}}
ONE = torch.ones(1)
SPARSE, NESTED = torch.ones(2).to_sparse(), torch.nested.nested_tensor([torch.ones(2)])
CALIBRATION = dict.fromkeys(["effective", "likeness", "ranks", "centre", "classes", "strangers"])
CALIBRATION |= {"temperature": 1.0, "scores": torch.ones(2), "seconds": torch.ones(2)}
THRESHOLDS = {"best": torch.ones(2), "sure": torch.ones(2), "found": 1.0}
MADE = {"classnames": ["a", "b"], "trainer": "CoOp", "backbone": "RN50", "epoch": 5}
FIVE = {"OPTIM.MAX_EPOCH": 5}


@pytest.fixture
def model(tmp_path):
    """The folder of the model in that of a run."""
    (tmp_path / "model").mkdir()
    write_run(tmp_path, run=Identity("CoOp", training=FIVE)._asdict())
    return tmp_path / "model"


# Entries of checkpoints, with values that no checkpoint has.
WRONG = {
    "computed": [{}, 7],
    "images": [{}, [], {"division": None}, IMAGES | {"trained_on": [1]}, IMAGES | {"division": 7},
               IMAGES | {"trained_on": SPARSE}, IMAGES | {"trained_on": NESTED}],
    "features": [
        {}, TRAITS | {"width": "x"}, TRAITS | {"text": []}, TRAITS | {"text": {"{}": []}},
        TRAITS | {"logit_scale": None}, TRAITS | {"width": 3},
        TRAITS | {"text": {"{}": {"a": [1, 2]}}}, TRAITS | {"text": {"{}": {"a": SPARSE}}},
    ],
    "sentences": [[], {1: ["b"]}],
    "drawn": [[], {1: 1}],
    "start": ["a"],
    "classnames": [7, "ab"],
    "epoch": ["x"],
    "state_dict": [[ONE], {1: ONE}, None],
    "method": [7, {1: ONE}],
    "class_buffers": [7, {1: "a"}],
    "plugins": [7],
    "calibration": [
        7, {}, CALIBRATION | {"temperature": float("inf")}, CALIBRATION | {"scores": ONE / 0},
        CALIBRATION | {"scores": ONE * torch.nan}, CALIBRATION | {"seconds": SPARSE},
        CALIBRATION | {"scores": NESTED},
    ],
    "thresholds": [
        7, {}, THRESHOLDS | {"best": None}, THRESHOLDS | {"best": torch.ones(1, 2)},
        THRESHOLDS | {"sure": ONE}, THRESHOLDS | {"best": torch.ones(2) / 0},
        THRESHOLDS | {"sure": torch.ones(2) * torch.nan}, THRESHOLDS | {"sure": SPARSE},
        THRESHOLDS | {"found": "x"}, {"best": torch.ones(1, 2), "sure": None, "found": 1.0},
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_an_odd_entry_of_a_checkpoint_is_one_sentence(model, name):
    path = model / "model.pth.tar-5"
    whole = MADE | {"state_dict": {"a": ONE}, "images": IMAGES, "computed": COMPUTED}
    whole |= {"features": TRAITS, "calibration": CALIBRATION, "drawn": {"a": 1, "b": 0.5, "c": "d"}}
    for value in WRONG[name]:
        torch.save(whole | {name: value}, path)
        with pytest.raises(UserError) as error:
            Saved.read(str(path))
        said = str(error.value)
        assert said.startswith(f"The checkpoint '{path}' has no valid '{name}' (")
        assert "\n" not in said
        if name != "epoch":  # which is in the name of the file
            with pytest.raises(UserError, match=f"tar-5' has no valid '{name}' .*: delete '"):
                Saved.to_resume(whole | {name: value}, str(model))
    whole |= {"thresholds": THRESHOLDS}
    torch.save(whole, path)
    saved = Saved.read(str(path))
    assert saved.drawn == {"a": 1, "b": 0.5, "c": "d"} and saved.computed == COMPUTED


@pytest.mark.parametrize(
    ("change", "says"),
    [({}, None), ({"plugins": ["a.py"]}, None), ({"plugins": 7}, "has no valid 'plugins'"),
     ({"classnames": ["a"]}, "what made it"), ({"epoch": None}, "what made it"),
     ({"backbone": None}, "what made it"), ({"trainer": None}, "what made it"),
     ({"images": []}, "has no valid 'images' .*: take")],
)  # fmt: skip
def test_what_made_a_checkpoint(tmp_path, model, change, says):
    torch.save({"state_dict": {}} | MADE | change, model / "model.pth.tar-5")
    with pytest.raises(UserError, match=says) if says else nullcontext():
        assert Saved.of_run(tmp_path).classnames == ["a", "b"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({}, None), ({"trainer": None}, None),
     ({"classnames": 7}, "valid 'classnames'"), ({"state_dict": 1}, "valid 'state_dict'"),
     ({"state_dict": None}, "valid 'state_dict'"),
     ({"epoch": 4}, "has done 4 of its 5 epochs"), ({"epoch": 6}, None), ({"epoch": 0}, None),
     ({"epoch": 4, "run": FIVE | {"OPTIM.STEPS": 9}}, None),
     ({"epoch": 4, "run": {}}, None)],
)  # fmt: skip
def test_a_training_on_which_another_builds_has_ended(tmp_path, model, change, said):
    torch.save({"state_dict": {}} | MADE | change, model / "model.pth.tar-5")
    write_run(tmp_path, run=Identity("CoOp", training=change.get("run", FIVE))._asdict())
    if said is None:
        assert Saved.find(str(tmp_path), "KEY", "do").place == str(tmp_path)
    else:
        with pytest.raises(UserError, match=said):
            Saved.find(str(tmp_path), "KEY", "do")


@pytest.mark.parametrize("content", [None, "{", '{"run": {"a": 1}}', '{"launch": {}}'])
def test_a_run_of_0_6_or_without_what_says_it_is_one_sentence(tmp_path, model, content):
    torch.save({"state_dict": {}} | MADE, model / "model.pth.tar-5")
    (tmp_path / "run.json").unlink()
    if content:
        (tmp_path / "run.json").write_text(content)
    for read in (lambda: Saved.of_run(tmp_path), lambda: Saved.to_resume(MADE, str(model))):
        with pytest.raises(UserError, match="run.json") as error:
            read()
        assert "train again" in str(error.value) and "\n" not in str(error.value)


def test_the_origin_of_a_training():
    saved = Saved.of(MADE | {"state_dict": {"a": ONE, "b": 1}, "backbone": "/x/RN50.pt"}, "place")
    origin = saved.origin()
    assert origin["backbone"] == "RN50.pt" and origin["place"] == "place"
    assert origin["shots"] == "unknown" and Saved.of({}).origin()["backbone"] == "unknown"
    other = Saved.of({"state_dict": {"a": 2 * ONE}})
    assert len(saved.digest()) == 16 and saved.digest() != other.digest()
    assert saved.digest() == Saved.of({"state_dict": {"a": ONE}}).digest()
    assert "place" not in saved.content() and saved.content()["val_result"] is None
    assert "rng" not in saved.content()


def test_images_of_the_training_are_not_evaluated():
    keys = {f"{i}.png": i for i in range(4)}
    items = [SimpleNamespace(impath=name) for name in keys]
    data = SimpleNamespace(keys=keys, val=items[:2], test=items[2:])
    saved = Saved.of({"images": IMAGES}, "the run")
    saved.check_unseen(data, "test")
    with pytest.raises(UserError, match="1 of the 2 val images are training images of 'the run'"):
        saved.check_unseen(data, "val")
    saved.check_unseen(SimpleNamespace(val=items), "val")
    Saved.of({}).check_unseen(data, "val")
    Saved.of({"images": IMAGES}).check_unseen(SimpleNamespace(keys=keys, val=None), "val")


def test_a_checkpoint_of_other_code_takes_the_settings_of_the_call(capsys):
    method = build_method("CoOp", {}, load_clip("emoji"), ["a", "b"])
    now = Saved(backbone="emoji", identity=Identity())
    Saved.of({"state_dict": {}}).check_loaded(now, method)
    assert "no settings: those of this call are used" in capsys.readouterr().out
