"""PromptKD: its teacher, its parts that the other golden tests leave out, and whole runs."""

import copy
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_files import build, near, node_of, read, teacher
from paths import GOLDEN
from PIL import Image
from tiny import HALVES, OF_HALVES, run, write_halves

from benchmark.launch.data import earlier_digests
from trainers.prompting import UserError, build_method, load_run
from trainers.prompting.checkpoint.provenance import images_of
from trainers.prompting.use import export

TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")


@pytest.fixture
def golden():
    return read(GOLDEN / "promptkd.safetensors")


@pytest.fixture
def method(golden, tiny_clip, tmp_path):
    return build(golden, tiny_clip, tmp_path)


def test_the_teacher(golden, method):
    image, expected = golden.tensors["image"], golden.part("teacher/")
    output = method.teacher.output(image)
    assert not output.logits.requires_grad
    assert (output.image.z[:, 0] - expected["image_features"]).abs().max() < 1e-5
    assert (output.text.h[0] - expected["text_features"]).abs().max() < 1e-5
    assert near(output.logits, expected["logits"])
    assert method.teacher.text() is method.teacher.text()  # kept
    own = method.output(image).image.z[:, 0]
    assert (own - golden.tensors["student_features"]).abs().max() < 1e-5


def test_the_teacher_is_not_learned_and_moves_with_the_method(golden, tiny_clip, tmp_path):
    method = build(golden, copy.deepcopy(tiny_clip), tmp_path)
    names = {*method.learned(), *method.public_state_dict()}
    assert not any("teacher." in name for name in names)
    assert [name for name in method.own_state() if "teacher" in name] == ["teacher._extra_state"]
    method.train()
    assert not method.teacher.method.training
    method.to(torch.float64)
    assert all(p.dtype == torch.float64 for p in method.teacher.method.parameters())


def test_running_statistics(golden, method):
    """One pass in training changes them; an evaluation reads them."""
    image, after = golden.tensors["image"], golden.part("buffer_after/")
    method.train()(image)
    own, after = method.own_state(), {k: v for k, v in after.items() if "running" in k}
    for name, value in after.items():
        assert (own[name] - value).abs().max() < 1e-6 * max(1, value.abs().max())
    with torch.no_grad():
        logits = method.eval()(image)
    assert near(logits, golden.tensors["after/logits_eval"])


@pytest.mark.parametrize("half", ["base", "new"])
def test_each_half_takes_its_rows_of_the_teachers_features(golden, tiny_clip, tmp_path, half):
    names, count = golden.meta["classnames"], golden.meta["extra"]["base_classes"]
    own, others = names[:count], names[count:]
    if half == "new":
        own, others = others, own
    node = node_of(golden) | teacher(golden, tmp_path)
    method = build_method("PromptKD", node, tiny_clip, own)
    method.take_classes([*own, *others])
    method.load_public_state_dict(golden.params)
    with torch.no_grad():
        logits = method.eval()(golden.tensors["image"])
    assert near(logits, golden.tensors[f"logits_eval_{half}"])
    terms = method.train().losses(golden.tensors["image"], torch.empty(0))  # over all classes
    assert (terms["kd"] - golden.tensors["loss/kd"]).abs() < 1e-5


def test_a_temperature_other_than_1(golden, tiny_clip, tmp_path):
    """L = KD_WEIGHT tau^2 mean_jk p log(p / q)."""
    method = build(golden, tiny_clip, tmp_path, TEMPERATURE=2.0, KD_WEIGHT=3.0).train()
    image = golden.tensors["image"]
    with torch.no_grad():
        terms = method.losses(image, torch.empty(0))
        own, theirs = method(image), method.teacher.output(image).logits
    p, q = (theirs / 2).softmax(-1), (own / 2).softmax(-1)
    kd = 4 * (p * (p / q).log()).mean()
    torch.testing.assert_close(terms["kd"], kd, rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["loss"], 3 * kd, rtol=1e-4, atol=0)


# ------------------------------------------------------------------ mistakes


def other_clip(folder, width):
    """Return a file with the tiny CLIP's weights, of which some have another width or value."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(TINY, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = file.metadata()
    if width:
        arch = json.loads(meta["arch"]) | {"embed_dim": width}
        meta["arch"] = json.dumps(arch)
        tensors["text_projection"] = tensors["text_projection"][:, :width].contiguous()
        tensors["visual.proj"] = tensors["visual.proj"][:, :width].contiguous()
    else:
        tensors["visual.proj"] = tensors["visual.proj"] * 2
    path = folder / f"other{width}.safetensors"
    save_file(tensors, path, meta)
    return str(path)


def fails(clip_model, said, **node):
    """Building a method is allowed, since its checkpoint may have all that is read; no training."""
    method = build_method("PromptKD", {"PROMPT_DEPTH_VISION": 2, **node}, clip_model, ["a", "b"])
    for call in (lambda: method.begin_stage(0), lambda: method(torch.zeros(2, 3, 32, 32))):
        with pytest.raises(UserError, match=said):
            call()


def test_teachers_that_cannot_be(golden, tiny_clip, tmp_path):
    given = teacher(golden, tmp_path)
    fails(tiny_clip, "has no teacher: train a PromptSRC on a larger CLIP")
    fails(tiny_clip, "no' holds no run to load, as .*: train", TEACHER=str(tmp_path / "no"))
    coop = tmp_path / "coop.pt"
    torch.save({"classnames": 1, "state_dict": {}}, coop)
    fails(tiny_clip, "has no valid 'classnames'", **given | {"TEACHER": str(coop)})
    narrow = golden.part("teacher/param/")
    narrow["prompt_learner.ctx"] = narrow["prompt_learner.ctx"][:, :64]
    torch.save({"state_dict": narrow}, coop)
    fails(tiny_clip, "does not fit its CLIP .* of TEACHER_NAME", **given | {"TEACHER": str(coop)})


def test_a_teacher_whose_features_are_not_finite(method):
    state = {"origin": {}, "classnames": ["a"], "raw": torch.full((1, 1, 8), torch.nan)}
    with pytest.raises(UserError, match="features of its teacher that are not finite"):
        method.load_own_state(method.own_state() | {"teacher._extra_state": state})


@pytest.mark.parametrize("larger", [False, True])
def test_tables_say_whether_the_teacher_is_larger(golden, tiny_clip, tmp_path, larger):
    given = teacher(golden, tmp_path)
    if larger:
        given["TEACHER_NAME"] = other_clip(tmp_path, 0)
        tiny_clip = copy.deepcopy(tiny_clip)
        tiny_clip.positional_embedding = torch.nn.Parameter(tiny_clip.positional_embedding[:-1])
    method = build_method("PromptKD", node_of(golden) | given, tiny_clip, ["cat", "dog"])
    assert method.takes == ("unlabelled", "teacher" if larger else "equal teacher")
    unknown = {"digest", "place", "method", "backbone", "larger"}
    assert all(
        method.teacher.origin[key] == "unknown" for key in method.teacher.origin.keys() - unknown
    )


def test_the_teacher_may_have_another_width(golden, tiny_clip, tmp_path):
    given = teacher(golden, tmp_path) | {"TEACHER_NAME": other_clip(tmp_path, 32)}
    method = build_method("PromptKD", node_of(golden) | given, tiny_clip, ["cat", "dog"])
    assert method.output(golden.tensors["image"]).text.h.shape == (1, 2, 32)
    with pytest.raises(UserError, match="has shape .* but the method's has"):
        method.load_public_state_dict(golden.params)


# ------------------------------------------------------------------ whole runs


def keys(place, clip=TINY):
    node = {"TEACHER": place, "TEACHER_NAME": clip, "PROMPT_DEPTH_VISION": 2, "KD_WEIGHT": 100.0}
    return [word for key, value in node.items() for word in (f"TRAINER.PROMPTKD.{key}", str(value))]


DEEP = ["TRAINER.IVLP.PROMPT_DEPTH_TEXT", "2", "TRAINER.IVLP.PROMPT_DEPTH_VISION", "2"]
BASE, NEW = [*OF_HALVES, "base"], [*OF_HALVES, "new"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with `images`, and `seed1`, a teacher of their base classes."""
    folder = tmp_path_factory.mktemp("teacher")
    write_halves(folder / "images")
    assert run(folder / "images", "IVLP", folder / "seed1", 1, extra=[*BASE, *DEEP]) == 0
    return folder


def record_of(folder):
    return json.loads((folder / "results.json").read_text())


@pytest.mark.slow
def test_runs_on_both_halves_the_second_without_the_teacher(trained, tmp_path, capsys):
    data, out, gone = trained / "images", tmp_path / "out", trained / "gone"
    place = keys("{run}/../teacher/seed{seed}")
    shutil.copytree(trained / "seed1", tmp_path / "teacher" / "seed1")
    assert run(data, "PromptKD", out, extra=[*BASE, *place]) == 0
    record = record_of(out)
    assert record["beyond"] == ["unlabelled", "equal teacher"] and record["train_steps"] == 12
    assert "joint_accuracy" in record
    facts = record["teacher"]
    assert facts["place"] == str(tmp_path / "teacher" / "seed1") and facts["classes"] == "base"
    said = [facts[key] for key in ("method", "dataset", "shots", "seed", "label_noise", "larger")]
    assert said == ["IVLP", "ImageFolder", 4, 1, 0.0, False]
    flags, more = ("--eval-only", "--model-dir", str(out)), [*NEW, *place]
    assert run(data, "PromptKD", tmp_path / "new", 2, *flags, extra=more) == 0
    images = torch.zeros(2, 3, 32, 32)
    logits = load_run(out, HALVES).model(images)
    assert logits.shape == (2, 5)
    state = torch.load(out / "VLPromptLearner/model.pth.tar-2", weights_only=True)["state_dict"]
    assert "VPT_image_trans.conv1.1.running_var" in state and "image_encoder.VPT" in state

    (tmp_path / "teacher").rename(gone)
    assert run(data, "PromptKD", tmp_path / "again", 2, *flags, extra=more) == 0
    again, new = record_of(tmp_path / "again"), record_of(tmp_path / "new")
    for key in ("teacher", "joint_accuracy", "negative_log_likelihood", "beyond"):
        assert again[key] == new[key]
    loaded = load_run(out, HALVES).model
    assert torch.equal(loaded(images), logits)
    assert export.program(loaded, 32).module()(images).shape == (2, 5)
    with pytest.raises(UserError, match="no text features of 'tower'. TRAINER.PROMPTKD.TEACHER: "):
        load_run(out, ["sea", "tower"]).model(images)
    assert run(data, "PromptKD", tmp_path / "bad", 2, extra=[*BASE, *place]) == 2
    assert "as there is no such folder: train a PromptSRC" in capsys.readouterr().err


def refused(said, capsys, *args, extra):
    assert run(*args, extra=extra) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_teachers_that_would_show_too_much(trained, tmp_path, capsys):
    """A teacher that has seen new classes, or images that the student is tested on."""
    data, out, every = trained / "images", tmp_path / "out", [*OF_HALVES, "all"]
    assert run(data, "IVLP", tmp_path / "all", 1, extra=[*every, *DEEP]) == 0
    capsys.readouterr()
    of_all = keys(str(tmp_path / "all"))
    refused("of the new classes, such as 'ro", capsys, data, "PromptKD", out, extra=BASE + of_all)
    # without new classes it may be of all
    assert run(data, "PromptKD", out, 1, extra=every + of_all) == 0

    shutil.copytree(data, tmp_path / "more")
    for folder in (tmp_path / "more").iterdir():
        for i in range(4):  # other images, so that the division is another
            pixels = np.random.default_rng([i, len(folder.name)]).integers(
                0, 255, (32, 32, 3), "uint8"
            )
            Image.fromarray(pixels).save(folder / f"a{i}.png")
    assert run(tmp_path / "more", "IVLP", tmp_path / "seen", 1, extra=[*BASE, *DEEP]) == 0
    capsys.readouterr()
    more = [*BASE, *keys(str(tmp_path / "seen"))]
    refused(" test images are training images of", capsys, data, "PromptKD", out, extra=more)


def test_a_student_has_seen_what_its_teacher_has(trained, tmp_path, capsys):
    """Both are the training images of the base classes here, but only the teacher is of `other`."""
    images = {"division": None, "trained_on": torch.tensor([7])}
    found = images_of(SimpleNamespace(train_x=[], train_u=[]), True, [images, None])
    assert found["trained_on"].tolist() == [7]


def test_another_teacher_in_the_same_folder(trained, tmp_path, capsys):
    data, out, place = trained / "images", tmp_path / "out", tmp_path / "teacher"
    shutil.copytree(trained / "seed1", place)
    more = [*BASE, *keys(str(place))]
    assert run(data, "PromptKD", out, 1, extra=more) == 0
    kept = record_of(out)
    digest = kept["teacher"]["digest"]
    assert earlier_digests(kept) == {"teacher": digest}
    shutil.rmtree(place)
    assert earlier_digests(kept) == {}  # none is there to compare
    assert run(data, "IVLP", place, 2, extra=[*BASE, *DEEP]) == 0
    assert earlier_digests(kept)["teacher"] != digest
    capsys.readouterr()
    refused("was begun otherwise (the teacher is", capsys, data, "PromptKD", out, 1, extra=more)
    assert record_of(out) == kept
    flags = ("--eval-only", "--model-dir", str(out))
    assert run(data, "PromptKD", tmp_path / "again", 1, *flags, extra=more) == 0
    assert "its text features in the checkpoint are used" in capsys.readouterr().out
    assert record_of(tmp_path / "again")["teacher"] == kept["teacher"]


def test_teachers_of_other_methods_clips_and_unfinished_ones(trained, tmp_path, capsys):
    data, out, place = trained / "images", tmp_path / "out", tmp_path / "teacher"
    assert run(data, "CoOp", tmp_path / "coop", 1, extra=BASE) == 0
    capsys.readouterr()
    for place, clip, said in (
        (tmp_path / "coop", TINY, "is a run of CoOp but must be of PromptSRC"),
        (
            trained / "seed1",
            other_clip(tmp_path, 0),
            "set TRAINER.PROMPTKD.TEACHER_NAME to its CLIP",
        ),
        ("", TINY, "PromptKD has no teacher"),
    ):
        more = [*BASE, *keys(str(place), clip)]
        refused(said, capsys, data, "PromptKD", out, extra=more)
    half = tmp_path / "half"
    each = ["TRAIN.CHECKPOINT_FREQ", "1"]
    assert run(data, "IVLP", half, 2, extra=[*BASE, *DEEP, *each]) == 0
    (half / "VLPromptLearner" / "model.pth.tar-2").unlink()
    (half / "VLPromptLearner" / "checkpoint").write_text("model.pth.tar-1\n")
    capsys.readouterr()
    more = [*BASE, *keys(str(half))]
    refused("has done 1 of its 2 epochs: let it end", capsys, data, "PromptKD", out, extra=more)
