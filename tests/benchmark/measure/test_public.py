"""Tests of `python -m benchmark speed --public`, with a checkout that has one small method."""

import json

import pytest
import torch

from benchmark.__main__ import main
from benchmark.measure import speed, speed_tables

TINY = (64, 32, 2, 64, 16, 77, 49408, 64, 1, 2)
FILES = {
    "clip/__init__.py": "",
    "clip/clip.py": "_MODELS = {}\ndef _download(url): raise OSError('no network')\n",
    "trainers/__init__.py": "",
    "trainers/coop.py": """
import torch
from clip import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_optimizer

@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    def build_model(self):
        print("Loading CLIP")
        weights = torch.load(clip._download("of ViT-B/16"))
        assert self.cfg.TRAINER.COOP.PREC == "fp32" and "text_projection" in weights
        self.model = torch.nn.Linear(3 * self.cfg.INPUT.SIZE[0] ** 2, self.num_classes)
        self.optim = build_optimizer(self.model, self.cfg.OPTIM)
        self.register_model("prompt_learner", self.model, self.optim)

    def forward_backward(self, batch):
        logits = self.model(batch["img"].flatten(1))
        loss = torch.nn.functional.cross_entropy(logits, batch["label"])
        self.model_backward_and_update(loss)

    def model_inference(self, images):
        assert not self.model.training and not torch.is_grad_enabled()
        return self.model(images.flatten(1))
""",
    "train.py": """
import trainers.coop
from yacs.config import CfgNode as CN

def extend_cfg(cfg):
    cfg.TRAINER.COOP = CN({"PREC": "fp16"})
""",
}


@pytest.fixture
def checkout(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / "public" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "public"


def test_steps_of_public_code_are_timed_in_turn_with_ours(checkout, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(speed.GEOMETRY, "tiny", TINY)
    monkeypatch.setitem(speed.PRODUCT, "cpu", 128)
    monkeypatch.setattr(speed, "in_process", lambda function, *args: function(*args))
    file = tmp_path / "speed.json"
    words = "speed --backbone tiny --classes 5 --batch 1 --eval-batch 1 --repeats 2 --threads 1"
    words += f" --trainers CoOp KgCoOp --format markdown --public {checkout} --json {file}"
    threads = torch.get_num_threads()
    assert main(words.split()) == 0
    torch.set_num_threads(threads)
    found = json.loads(file.read_text())
    coop, kgcoop = (record["training"]["public"] for record in found["records"])
    tested = found["records"][0]["evaluation"]["public"]
    product = 2 * 3 * 32 * 32 * 5  # of one image and five classes
    assert (coop["operations"], tested["operations"]) == (2 * product, product)
    for timed in (coop, tested):
        assert len(timed["seconds"]) == len(timed["processor_seconds"]) == 2
        assert min(timed["processor_seconds"]) > 0 and timed["peak_mib"] > 0
    assert list(kgcoop) == ["problem"] and "Unknown trainer 'KgCoOp'" in kgcoop["problem"]
    out = capsys.readouterr().out
    assert speed_tables.spread(coop["seconds"]) in out and kgcoop["problem"] in out
    assert "Public / ours" in out


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (None, "is not a folder: give a checkout of published code"),
        (["train.py"], "has no trainers and no clip: give a checkout of CoOp, MaPLe, ALIGN or"),
    ],
)
def test_other_folders_are_refused(tmp_path, capsys, parts, sentence):
    folder = tmp_path / "folder"
    if parts is not None:
        folder.mkdir()
        for name in parts:
            (folder / name).touch()
    assert main(["speed", "--public", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    assert err.startswith(f"python -m benchmark speed: --public '{folder}' {sentence}")
