"""Attacks in tests and trainings: what is attacked, records, weak attacks, mistakes."""

from types import SimpleNamespace

import models
import pytest
import tiny
import torch
from dassl.config import get_cfg_default
from tiny import results
from torchvision import transforms as T

from benchmark.report.single import report_runs
from trainers.prompting import UserError, build_method, register
from trainers.prompting.building.config import add_nodes
from trainers.prompting.method import METHODS
from trainers.prompting.robustness import to_images, to_pixels
from trainers.prompting.running.precision import Precision
from trainers.prompting.trainer.attacks import attacked_steps, check_attacks, evaluate_attacked
from trainers.prompting.trainer.checks import Watch
from trainers.prompting.trainer.trainer import PromptTrainer

NAMES = models.NAMES[:2]


# ------------------------------------------------------------------ in a test


class Images(torch.utils.data.Dataset):
    """The images of a golden file of attacks, with what its model says of them as labels."""

    def __init__(self, method, golden):
        self.pixels = golden.tensors["image"]
        self.labels = method(to_images(method, self.pixels)).argmax(1)
        self.names = golden.meta["classnames"]
        self.transform = lambda image: to_images(method, T.functional.to_tensor(image))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        image = self.transform(T.functional.to_pil_image(self.pixels[i]))
        return {"img": image, "label": self.labels[i], "index": i, "impath": f"{i}.png"}


def trainer_of(method, images, clip_model, **test):
    """Return what an attack in a test reads of a trainer."""
    cfg = get_cfg_default()
    add_nodes(cfg)
    cfg.TEST.update({f"ATTACK_{key}" if key else "ATTACK": x for key, x in test.items()})
    cfg.INPUT.update(SIZE=(32, 32), PIXEL_MEAN=method.mean, PIXEL_STD=method.std)
    cfg.INPUT.TRANSFORMS = ("normalize",)
    cfg.DATASET.NAME = "EuroSAT"
    loader = torch.utils.data.DataLoader(images, batch_size=3)
    data = SimpleNamespace(classnames=images.names)
    trainer = SimpleNamespace(
        cfg=cfg, method=method, clip_model=clip_model, device=torch.device("cpu"),
        precision=Precision("fp32", torch.device("cpu")), watch=Watch(torch.device("cpu"), ""),
        dm=SimpleNamespace(test_loader=loader, dataset=data),
    )  # fmt: skip
    trainer.parse_batch_train = lambda batch: PromptTrainer.parse_batch_train(trainer, batch)
    return trainer


def attacked(of, clip_model, name="ZeroshotCLIP", node=(), kind="pgd", **test):
    """Return the metrics of a method on attacked images of a golden file."""
    golden, zero_shot = of("attack_zeroshot_eps4")
    place = clip_model, golden.meta["classnames"], golden.meta["dataset"]
    method = build_method(name, dict(node), *place).eval()
    test = {"": kind, "EPS": 4.0, "STEPS": 8} | test
    images = Images(zero_shot, golden)
    return evaluate_attacked(trainer_of(method, images, clip_model, **test), None)


def test_zero_shot_clip_is_not_robust(of, tiny_clip, capsys):
    state = torch.get_rng_state()
    found = attacked(of, tiny_clip, STEPS=20)
    assert torch.equal(state, torch.get_rng_state())
    assert (found["clean_accuracy"], found["robust_accuracy"]) == (100, 0)
    text = "pgd 4/255, 20 steps of 0.25, 5 images"
    facts = {"text": text, "eps": 4.0, "images": 5, "lost": 5, "won": 0, "weak": ""}
    assert found["attack"] == facts and f"Attack: {text}" in capsys.readouterr().out


def test_what_is_attacked_depends_on_the_seed(of, tiny_clip, monkeypatch):
    few = [attacked(of, tiny_clip, IMAGES=3, START="image", STEPS=1)["attack"] for _ in "ab"]
    assert few[0] == few[1] and few[0]["text"][-24:] == "from the image, 3 images"
    starts, sizes = [], {"EPS": 1.0, "STEPS": 1, "IMAGES": 2}

    def noted(method, pixels, labels, eps, alpha, steps, start, loss):
        assert (start - pixels).abs().max() <= eps + 1e-6
        return starts.append(start) or start

    monkeypatch.setattr("trainers.prompting.trainer.attacks.pgd", noted)
    assert attacked(of, tiny_clip, **sizes) == attacked(of, tiny_clip, **sizes)
    assert torch.equal(*starts) and not torch.equal(*starts[0])


def rounded(base):
    """Register a method that rounds pixels, which hides the gradient of another one."""

    class Rounded(METHODS[base]):
        def output(self, images):
            return super().output(to_images(self, (to_pixels(self, images) * 255).round() / 255))

    return register(Rounded).__name__


def test_an_attack_without_a_gradient_is_too_weak(of, tiny_clip, capsys):
    name = rounded("ZeroshotCLIP")
    found = attacked(of, tiny_clip, name)
    assert found["robust_accuracy"] == 100
    weak = "no gradient reaches the pixels of 5 of the 5 images that stay right"
    assert found["attack"]["weak"] == weak and f"attack too weak: {weak}" in capsys.readouterr().out
    transferred = attacked(of, tiny_clip, name, kind="transfer-pgd")
    assert transferred["robust_accuracy"] < 50 and not transferred["attack"]["weak"]


@pytest.mark.slow
def test_the_same_images_are_transferred_to_all_methods(of, tiny_clip, monkeypatch):
    seen = {}
    for name in ("ZeroshotCLIP", "CoOp"):
        predict = METHODS[name].predict
        monkeypatch.setattr(
            METHODS[name],
            "predict",
            lambda self, x, name=name, do=predict: (
                seen.setdefault(name, []).append(x) or do(self, x)
            ),
        )
        attacked(of, tiny_clip, name, kind="transfer-cw", STEPS=2)
    assert len(seen["CoOp"]) == 4 and all(map(torch.equal, *seen.values()))


def test_views_are_drawn_from_the_attacked_image(of, tiny_clip, monkeypatch):
    """In 8 bits, by the same crops as without an attack."""
    seen, predict = [], METHODS["MTA"].predict
    monkeypatch.setattr(
        METHODS["MTA"], "predict", lambda self, x: seen.append(x) or predict(self, x)
    )
    found = attacked(of, tiny_clip, "MTA", {"BATCH_SIZE": 16}, EPS=16.0, STEPS=3)
    assert found["attack"]["text"].endswith("5 images, static")
    method = build_method("MTA", {}, tiny_clip, NAMES)
    before, after = seen[0], seen[2]
    assert len(before) == len(after) == 16 and not torch.equal(before[5], after[5])
    for x in (before[0], after[0]):
        pixels = to_pixels(method, x) * 255
        assert (pixels - pixels.round()).abs().max() < 1e-3
    moved = [
        (to_pixels(method, a) - to_pixels(method, b)).abs().max()
        for a, b in zip(before, after, strict=True)
    ]
    assert max(moved) < 20 / 255


# ------------------------------------------------------------------ in a training


@pytest.mark.parametrize("text", ["onfly", "constant", "perturbed"])
def test_every_view_of_a_step_is_attacked(of, tiny_clip, text):
    golden, method = of("attack_coop_eps4")
    trainer = trainer_of(method, Images(method, golden), tiny_clip)
    step = 0.5 if text == "perturbed" else 0.0
    trainer.cfg.TRAIN.update(ATTACK="pgd", ATTACK_TEXT=text, ATTACK_TEXT_STEP=step)
    images = to_images(method, golden.tensors["image"])
    batch = {"img": [images, images.flip(-1)], "label": golden.tensors["label"]}
    (found,) = attacked_steps(trainer, [batch])
    eps = trainer.cfg.TRAIN.ATTACK_EPS / 255
    for view, given in zip(found["img"], batch["img"], strict=True):
        moved = to_pixels(method, view) - to_pixels(method, given)
        assert eps / 2 < moved.abs().max() <= eps + 1e-6
        losses = [method.losses(x, batch["label"])["loss"] for x in (view, given)]
        assert losses[0] > losses[1]


# ------------------------------------------------------------------ in runs


def test_a_run_that_learns_and_is_tested_under_attack(tmp_path):
    attacks = {"TRAIN": {"STEPS": 1}, "TEST": {"STEPS": 2, "IMAGES": 5}}
    pairs = {f"{node}.ATTACK": "pgd" for node in attacks}
    pairs |= {f"{node}.ATTACK_{key}": x for node, of in attacks.items() for key, x in of.items()}
    extra = [str(word) for pair in pairs.items() for word in pair]
    assert tiny.run(tmp_path / "data", "CoOp", tmp_path / "run", 1, extra=extra) == 0
    found = results(tmp_path / "run")
    assert found["accuracy"] >= 0 and found["attack"]["images"] == 5
    assert found["clean_accuracy"] - found["robust_accuracy"] == pytest.approx(
        20 * (found["attack"]["lost"] - found["attack"]["won"])
    )
    text = report_runs([tmp_path / "run"], "text")
    assert "pgd 1/255, 2 steps of 0.25, 5 images" in text and "Attack in training" in text


METHOD_MISTAKES = {
    "TransCLIP": ("TEST", "the logits of TransCLIP depend on the other test images: leave it out"),
    "ZeroshotCLIP": ("TRAIN", "ZeroshotCLIP trains nothing: leave it out"),
    "PromptKD": ("TRAIN", "PromptKD learns from images without labels: leave it out"),
    "CLAP": ("TRAIN", "CLAP learns from features: leave it out"),
}


def cfg_with(changes):
    cfg = get_cfg_default()
    add_nodes(cfg)
    cfg.INPUT.TRANSFORMS = ("normalize",)
    cfg.DATASET.FEATURES = ""
    cfg.merge_from_list([word for pair in changes.items() for word in pair])
    return cfg


@pytest.mark.parametrize("name", METHOD_MISTAKES)
def test_methods_that_cannot_be_attacked(tiny_clip, name):
    node, sentence = METHOD_MISTAKES[name]
    method = build_method(name, models.settings(name), tiny_clip, NAMES, "EuroSAT")
    with pytest.raises(UserError, match=sentence):
        check_attacks(method, cfg_with({f"{node}.ATTACK": "pgd"}))
