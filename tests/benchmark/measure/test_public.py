"""Tests of `measure speed --public`, with a checkout that has one small method."""

import json

import pytest

from benchmark.__main__ import main
from benchmark.measure import speed, speed_tables
from benchmark.measure.case import Case
from benchmark.measure.public import Public, check_public, check_public_precision
from trainers.prompting import UserError

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

CLIP = """
import torch
_MODELS = {"ViT-B/16": "url"}
def _download(url, root): raise OSError('no network')
class Net(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.prompt_learner = torch.nn.Linear(3 * 32 * 32, classes)
        self.frozen = torch.nn.Linear(3, 3)
    def forward(self, images):
        assert images.shape[1:] == (3, 32, 32)
        return self.prompt_learner(images.flatten(1))
"""
LOOPS = {  # the functions that public_loops.py calls
    "TPT": {
        "clip/__init__.py": "",
        "clip/clip.py": CLIP,
        "tpt_classification.py": """
import torch
from clip import clip

def get_coop(arch, test_set, device, n_ctx, ctx_init):
    weights = torch.jit.load(clip._download(arch, ""), map_location="cpu").eval().state_dict()
    assert "text_projection" in weights and (n_ctx, ctx_init) == (4, "a_photo_of_a")
    model = clip.Net(5)
    model.reset_classnames = lambda names, arch: names[4]
    return model

def test_time_adapt_eval(loader, model, state, optimizer, start, scaler, args):
    assert len(loader) == 2 and not model.frozen.weight.requires_grad
    for views, label in loader:
        assert len(views) == 64 and views[0].shape == (1, 3, 32, 32) and label.shape == (1,)
        optimizer.load_state_dict(start)
        optimizer.zero_grad()
        scaler.scale(model(torch.cat(views)).logsumexp(1).mean()).backward()
        scaler.step(optimizer)
        with torch.no_grad():
            model(views[0].cuda(args.gpu))
""",
    },
    "TwoSFS": {
        "clip/__init__.py": CLIP
        + """
def load(name, device):
    assert "text_projection" in torch.load(_download(_MODELS[name], ""))
    return Net(5).double(), None  # in another type, as a GPU's
""",
        "fs/__init__.py": "",
        "fs/twostage.py": """
import torch

def tokenize_texts(template, classnames, device="cuda"):
    return torch.zeros(len(classnames)).to(device)

def prepare_for_first_stage(model, args):
    return model, list(model.prompt_learner.parameters())

def cls_acc(logits, labels):
    raise TypeError

def train_epoch(model, optimizer, scheduler, scaler, loader, texts, count, total, args):
    (images, labels), = loader
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    assert count < total and 0 <= cls_acc(torch.zeros(len(labels), 5), labels) <= 100

class SingleStreamClassifier(torch.nn.Module):
    def __init__(self, model, names, template):
        super().__init__()
        self.model = model
    def infer(self, images, names, template):
        assert not torch.is_grad_enabled() and not self.training
        return self.model(images)
""",
    },
}


def written(files, folder):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def checkout(tmp_path):
    return written(FILES, tmp_path / "public")


@pytest.mark.slow
@pytest.mark.parametrize(("trainer", "training", "products"), [
    ("TPT", False, 2 * (2 * 64 + 1)), ("TwoSFS", True, 2 * 2), ("TwoSFS", False, 2),
])  # fmt: skip
def test_code_with_loops_of_its_own_is_timed(trainer, training, products, tmp_path):
    """Two images: their products, forward and backward, are all operations of the small models."""
    folder = written(LOOPS[trainer], tmp_path)
    public = Public(Case(trainer, TINY, 5, 2, "cpu", "fp32", 1, training=training), folder)
    public.step()
    public.close()
    assert public.record.get("operations") == products * 2 * 3 * 32 * 32 * 5, public.record
    assert len(public.record["processor_seconds"]) == 1


def test_code_of_one_method_is_not_timed_beside_others(tmp_path, refusal):
    said = refusal(
        "speed", "--public", written(LOOPS["TPT"], tmp_path), "--trainers", "TPT", "CoOp"
    )
    assert "is the code of TPT alone: add --trainers TPT" in said


@pytest.mark.parametrize(("files", "device", "precision", "choices"), [
    (FILES, "cpu", "amp", "fp32"), (LOOPS["TPT"], "cpu", "bf16", "fp32"),
    (FILES, "cuda", "bf16", "fp32 or amp or fp16"), (LOOPS["TwoSFS"], "cuda", "fp32", "amp"),
])  # fmt: skip
def test_precisions_of_public_code(files, device, precision, choices, tmp_path):
    """Public code that would silently compute in another precision is refused."""
    folder = written(files, tmp_path)
    asked = choices.split(" or ")
    check_public_precision(folder, device, asked)
    with pytest.raises(UserError) as refused:
        check_public_precision(folder, device, [*asked, precision])
    assert str(refused.value) == (
        f"--public '{folder}' does not compute in {precision} on {device}: choose --precision "
        + choices
    )


def test_a_precision_is_refused_before_anything_is_measured(checkout, refusal):
    said = refusal("speed", "--public", checkout, "--trainers", "CoOp", "--precision", "amp")
    assert "compute in amp on cpu: choose --precision fp32\n" in said


def test_trainers_count_before_loops(tmp_path):
    """As in public_step.py."""
    check_public(written(FILES | LOOPS["TPT"], tmp_path), ["CoOp", "MaPLe"])


@pytest.mark.slow
def test_steps_of_public_code_are_timed_in_turn_with_ours(checkout, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(speed.GEOMETRY, "tiny", TINY)
    monkeypatch.setitem(speed.PRODUCT, "cpu", 128)
    monkeypatch.setattr(speed, "in_process", lambda function, *args: function(*args))
    file = tmp_path / "speed.json"
    words = (
        "measure speed --backbone tiny --classes 5 --batch 1 --eval-batch 1 --repeats 2 --threads 1"
    )
    words += f" --trainers CoOp KgCoOp --format markdown --public {checkout} --json {file}"
    assert main(words.split()) == 0
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


def test_other_folders_are_refused(tmp_path, refusal):
    (tmp_path / "train.py").touch()
    said = refusal("speed", "--public", tmp_path)
    assert said.startswith(f"--public '{tmp_path}' has no trainers and no clip: give a checkout of")
