"""ProLIP, beyond test_golden.py."""

import pytest
import tiny
import torch
from golden_files import build, near, node_of, read
from models import RESNET, clip_of, saved
from paths import GOLDEN
from test_golden import check_other_classes, check_step

from trainers.prompting import UserError, build_method, load_run
from trainers.prompting.capabilities.fitting import descent
from trainers.prompting.checkpoint.public import public_checkpoint
from trainers.prompting.encoders import templates
from trainers.prompting.encoders.class_text import ClassText
from trainers.prompting.method import METHODS
from trainers.prompting.node import read_node

NAMES = ["cat", "dog", "fish"]


@pytest.fixture
def resnet():
    return clip_of(**RESNET, image_resolution=64)


@pytest.fixture
def golden():
    return read(GOLDEN / "prolip.safetensors")


def made(golden, clip_model, classes=None, **node):
    """Return a method trained on the file's support, of the first classes or of all."""
    meta, support = golden.meta, golden.support
    if classes:
        keep = support["labels"] < classes
        support = {"images": support["images"][:, keep], "labels": support["labels"][keep]}
    place = clip_model, meta["classnames"][:classes], meta["dataset"]
    return build_method("ProLIP", node_of(golden, **node), *place, support).eval()


@torch.no_grad()
def test_whole_trainings(golden, tiny_clip):
    tensors, image = golden.tensors, golden.tensors["image"]
    method = made(golden, tiny_clip)
    assert torch.equal(method.start, tensors["init/vit_proj"])
    x = method.clip_features(tensors["support/image"][1])
    assert near(x, tensors["support/features_before"][1], 1e-5)
    assert near(method.vit_proj, tensors["steps/vit_proj"], 1e-5)
    assert near(method(image), tensors["steps/logits_eval"])
    one = made(golden, tiny_clip, TRAIN_EPOCH=1)
    assert near(one.vit_proj, tensors["steps/1/vit_proj"], 1e-5)
    assert near(one(image), tensors["steps/1/logits_eval"])
    free = made(golden, tiny_clip, LAMBDA=0.0)
    assert near(free(image), tensors["no_penalty/steps/logits_eval"])
    for value in ("1/N^2", "0.25"):  # of two shots
        assert method.Settings(LAMBDA=value, SHOTS=2).weight() == 0.25


@torch.no_grad()
def test_from_base_to_new_classes(golden, tiny_clip):
    tensors, meta = golden.tensors, golden.meta
    m = meta["extra"]["base_classes"]
    base = made(golden, tiny_clip, m)
    assert near(base.vit_proj, tensors["base/steps/vit_proj"], 1e-5)
    assert near(base(tensors["image"]), tensors["base/logits_eval"])
    names = meta["classnames"][m:]
    new = build_method("ProLIP", node_of(golden), tiny_clip, names, meta["dataset"]).eval()
    new.load_checkpoint(saved(base, meta["classnames"][:m]), names)
    assert near(new(tensors["image"]), tensors["base/logits_eval_new"])
    check_other_classes(golden, "new_classnames", "logits_eval_new", tiny_clip, meta["dataset"])


def test_the_clips_own_scale(golden, tiny_clip, tmp_path):
    tensors, method = golden.tensors, build(golden, tiny_clip, tmp_path, SCALE=0.0)
    assert near(method(tensors["image"]), tensors["clip_scale/logits"])
    terms = method.losses(tensors["image"], tensors["label"])
    method.backward(terms)
    assert near(terms["loss"], tensors["clip_scale/loss"])
    wanted = tensors["clip_scale/grad/vit_proj"]
    assert (method.vit_proj.grad - wanted).norm() < 1e-3 * wanted.norm()


def test_the_projection_of_the_text(golden, tiny_clip, tmp_path):
    part = golden.part("text/param/")
    golden = golden._replace(
        tensors={k: v for k, v in golden.tensors.items() if not k.startswith(("param/", "grad/"))}
        | {f"param/{name}": value for name, value in part.items()}
    )
    method = build(golden, tiny_clip, tmp_path, SIDE="text")
    t = method.text_encoder().raw
    assert near(t.transpose(0, 1), golden.tensors["text/features_before"], 1e-5)
    check_step(method, golden, "text/")


def test_sentences_of_imagenet_are_averaged_before_the_projection(tiny_clip):
    place = tiny_clip, NAMES, "ImageNetV2"
    method = build_method("ProLIP", {"SIDE": "text"}, *place)
    raw = ClassText(templates.IMAGENET, NAMES, "raw_mean").features(tiny_clip)
    assert near(method.text().h, raw.h, 1e-5)
    plain = build_method("ProLIP", {"CTX_INIT": "a photo of a"}, *place).text().h
    assert near(plain, build_method("ZeroshotCLIP", {}, tiny_clip, NAMES).text().h, 1e-6)


def test_the_rate_and_lambda_are_searched(golden, tiny_clip, capsys):
    tensors = golden.tensors
    method = made(golden, tiny_clip, SEARCH=True)
    assert method.searches
    method.take_validation(method.clip_features(tensors["val/image"]), tensors["val/label"])
    rate, weight = tensors["search/best"].tolist()
    right = round(float(tensors["search/val_accuracy"].max()) * len(tensors["val/label"]) / 100)
    said = f"rate {rate:g} and lambda {weight:g} classify {right} of"
    assert said in capsys.readouterr().out
    with torch.no_grad():
        assert near(method(tensors["image"]), tensors["search/logits_eval"])


def test_of_a_resnet_the_bias_stays(resnet):
    support = {"images": torch.randn(2, 6, 3, 64, 64), "labels": torch.arange(6) % 3}
    plain = build_method("ZeroshotCLIP", {}, resnet, NAMES).eval()
    x = torch.randn(4, 3, 64, 64)
    start = build_method("ProLIP", {"SCALE": 0.0}, resnet, NAMES).eval()
    with torch.no_grad():
        assert near(start(x), plain(x))
    node = {"SCALE": 0.0, "TRAIN_EPOCH": 2, "LR": 0.01}
    method = build_method("ProLIP", node, resnet, NAMES, support=support).eval()
    assert set(method.public_state_dict()) == {"linear.weight", "linear.bias"}
    assert torch.equal(method.linear.bias, resnet.visual.attnpool.c_proj.bias)
    assert not torch.equal(method.linear.weight, resnet.visual.attnpool.c_proj.weight)
    assert [*method.learned()] == ["linear.weight"]
    moved = method.linear.weight - start.linear.weight
    assert near(method.losses(x[:3], torch.arange(3))["penalty"], moved.square().sum())


def test_public_files(golden, tiny_clip, tmp_path):
    """Half precision, as the public code saves it."""
    file = tmp_path / "eurosat_seed1.pth"
    torch.save({name: p.half() for name, p in golden.params.items()}, file)
    method = build_method("ProLIP", {}, tiny_clip, golden.meta["classnames"], "EuroSAT").eval()
    method.load_checkpoint(public_checkpoint(method, str(file)), golden.meta["classnames"])
    with torch.no_grad():
        assert near(method(golden.tensors["image"]), golden.tensors["logits_eval"], 0.2)
    assert torch.equal(method.write_public()["*.pth"]["vit_proj"], method.vit_proj)
    torch.save([1], file)
    with pytest.raises(UserError, match="pth': not as the public code of ProLIP writes it"):
        public_checkpoint(method, str(file))


# ------------------------------------------------------------------ runs


def keys(**more):
    own = {"AUG_VIEWS": "3"} | more
    pairs = [word for key, value in own.items() for word in (f"TRAINER.PROLIP.{key}", value)]
    return [*tiny.OF_HALVES, "all", "DATASET.NUM_SHOTS", "2", "TRAIN.CHECKPOINT_FREQ", "1", *pairs]


@pytest.fixture
def encoded(monkeypatch):
    """Collect the sums of the first pixels of a row, whenever ten images are encoded."""
    found, kind = [], METHODS["ProLIP"]
    before = kind.clip_features

    def clip_features(self, images):
        if images.dim() == 4 and len(images) == 10:
            found.append(float(images[..., 0].sum()))
        return before(self, images)

    monkeypatch.setattr(kind, "clip_features", clip_features)
    return found


def test_a_view_is_made_in_its_epoch(tmp_path, encoded):
    """A resumed run ends with the same bits; after the last view comes the first again."""
    data, folder = tiny.write_halves(tmp_path / "data"), tmp_path / "run"
    extra = [*keys(LAMBDA="0.5"), "TEST.RECORD", "False"]
    assert tiny.run(data, "ProLIP", folder, 4, extra=extra) == 0
    views = encoded[:4]
    assert len(set(views)) == 3 and views[0] == views[3]
    expected = load_run(folder).model.vit_proj
    checkpoints = folder / "prolip"
    for epoch in (3, 4):
        (checkpoints / f"model.pth.tar-{epoch}").unlink()
    (checkpoints / "checkpoint").write_text("model.pth.tar-2\n")
    encoded.clear()
    assert tiny.run(data, "ProLIP", folder, 4, extra=extra) == 0
    assert encoded[:2] == views[2:]
    assert torch.equal(load_run(folder).model.vit_proj, expected)


def test_runs_that_are_refused(tmp_path, capsys):
    cases = {
        "LAMBDA is 1/N, but DATASET.NUM_SHOTS is -1: set it": ["DATASET.NUM_SHOTS", "-1"],
        "has none besides its test images: switch its search off (SEARCH False)": [
            "TRAINER.PROLIP.SEARCH", "True",
        ],
    }  # fmt: skip
    root = tiny.write_halves(tmp_path / "data")
    for sentence, extra in cases.items():
        assert tiny.run(root, "ProLIP", tmp_path / "run", 1, extra=extra) == 2
        assert sentence in capsys.readouterr().err


def test_a_number_for_a_key_of_words(tmp_path):
    cfg = tiny.train.setup_cfg(
        tiny.train.parse_args(["--trainer", "ProLIP", "TRAINER.PROLIP.LAMBDA", "0.5",
                               "DATASET.NAME", "TinyColours", "DATASET.ROOT", "2024"])
    )  # fmt: skip
    assert (cfg.TRAINER.PROLIP.LAMBDA, cfg.DATASET.ROOT) == ("0.5", "2024")
    assert read_node(METHODS["ProLIP"], dict(cfg.TRAINER.PROLIP)).weight() == 0.5


def test_a_step_in_memory_forgets_gradients_of_before_and_leaves_none():
    x = torch.nn.Parameter(torch.ones(1))
    x.grad = torch.ones(1)
    descent(lambda number: x.square().sum(), torch.optim.SGD([x], lr=0.25))(1)
    assert x == 0.5 and x.grad is None
