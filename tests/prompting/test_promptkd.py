"""PromptKD: its teacher, its parts that the other golden tests leave out, and whole runs."""

import copy
import json

import pytest
import torch
from golden_files import build, near, node_of, read, teacher
from paths import GOLDEN
from tiny import HALVES, OF_HALVES, run, write_halves

from trainers.prompting import UserError, build_method, load_run

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


def test_the_teacher_is_not_learned_or_saved_and_moves_with_the_method(golden, tiny_clip, tmp_path):
    method = build(golden, copy.deepcopy(tiny_clip), tmp_path)
    names = {*method.learned(), *method.own_state(), *method.public_state_dict()}
    assert not any("teacher." in name for name in names)
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
    with pytest.raises(UserError, match=said):
        build_method("PromptKD", {"PROMPT_DEPTH_VISION": 2, **node}, clip_model, ["cat", "dog"])


def test_teachers_that_cannot_be(golden, tiny_clip, tmp_path):
    given = teacher(golden, tmp_path)
    none = build_method("PromptKD", {"PROMPT_DEPTH_VISION": 2}, tiny_clip, ["cat", "dog"])
    for call in (lambda: none.text(), lambda: none.take_classes(["cat", "dog"])):
        with pytest.raises(UserError, match="has no teacher: train a PromptSRC on a larger CLIP"):
            call()
    missing = str(tmp_path / "no{seed}")
    fails(tiny_clip, "no7', where there is no checkpoint: train", TEACHER=missing, SEED=7)
    fails(tiny_clip, "reads images of 64 pixels, but this", **given | {"TEACHER_NAME": "emoji"})
    coop = tmp_path / "coop.pt"
    torch.save({"state_dict": {"ctx": torch.zeros(4, 128)}}, coop)
    fails(tiny_clip, "has no prompts of PromptSRC", **given | {"TEACHER": str(coop)})
    narrow = golden.part("teacher/param/")
    narrow["prompt_learner.ctx"] = narrow["prompt_learner.ctx"][:, :64]
    torch.save({"state_dict": narrow}, coop)
    fails(tiny_clip, "does not fit its CLIP .* of TEACHER_NAME", **given | {"TEACHER": str(coop)})


def test_the_teacher_may_have_another_width(golden, tiny_clip, tmp_path):
    given = teacher(golden, tmp_path) | {"TEACHER_NAME": other_clip(tmp_path, 32)}
    method = build_method("PromptKD", node_of(golden) | given, tiny_clip, ["cat", "dog"])
    assert method.output(golden.tensors["image"]).text.h.shape == (1, 2, 32)
    with pytest.raises(UserError, match="has shape .* but the configuration asks for"):
        method.load_public_state_dict(golden.params)


def test_a_batch_of_one_image(golden, method):
    with pytest.raises(UserError, match="set DATALOADER.TRAIN_X.BATCH_SIZE to 2 or more"):
        method.train()(golden.tensors["image"][:1])


def test_a_checkpoint_without_running_statistics(golden, method):
    with pytest.raises(UserError, match="conv1.1.running_mean' is a NoneType"):
        method.load_public_state_dict(golden.part("param/"))


# ------------------------------------------------------------------ whole runs


def keys(place, clip=TINY):
    node = {"TEACHER": place, "TEACHER_NAME": clip, "PROMPT_DEPTH_VISION": 2, "KD_WEIGHT": 100.0}
    return [word for key, value in node.items() for word in (f"TRAINER.PROMPTKD.{key}", str(value))]


def test_runs_on_both_halves(tmp_path, capsys):
    data, out = write_halves(tmp_path / "data"), tmp_path / "out"
    place = f"{tmp_path}/teacher/seed{{seed}}"
    deep = ["TRAINER.IVLP.PROMPT_DEPTH_TEXT", "2", "TRAINER.IVLP.PROMPT_DEPTH_VISION", "2"]
    base = [*OF_HALVES, "base"]
    assert run(data, "IVLP", tmp_path / "teacher/seed1", 1, extra=[*base, *deep]) == 0
    assert run(data, "PromptKD", out, extra=[*base, *keys(place)]) == 0
    record = json.loads((out / "results.json").read_text())
    assert record["beyond"] == ["unlabelled", "teacher"] and record["train_steps"] == 12
    assert "joint_accuracy" in record
    new, flags = [*OF_HALVES, "new"], ("--eval-only", "--model-dir", str(out))
    assert run(data, "PromptKD", tmp_path / "new", 2, *flags, extra=[*new, *keys(place)]) == 0
    model = load_run(out, HALVES).model
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    state = torch.load(out / "VLPromptLearner/model.pth.tar-2", weights_only=True)["state_dict"]
    assert "VPT_image_trans.conv1.1.running_var" in state and "image_encoder.VPT" in state
    capsys.readouterr()

    def refused(place, said, clip=TINY):
        more = [*base, *keys(place, clip)]
        assert run(data, "PromptKD", tmp_path / "bad", 2, *flags, extra=more) == 2
        assert said in capsys.readouterr().err

    refused("", "PromptKD has no teacher")
    clip = other_clip(tmp_path, 0)
    refused(place, "set TRAINER.PROMPTKD.TEACHER_NAME to its CLIP", clip)
    refused(str(out), "is a run of PromptKD but must be of PromptSRC")
    assert run(data, "IVLP", tmp_path / "second", 2, extra=[*base, *deep]) == 0
    capsys.readouterr()
    refused(str(tmp_path / "second"), "were trained with another teacher than")
