"""Tests of `python -m benchmark measure twin`, with a checkout whose CoOp is written here."""

import shutil
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from paths import GOLDEN

from benchmark.__main__ import main
from benchmark.measure.geometry import reacting_clip
from benchmark.measure.pets import write_pets
from benchmark.measure.replay import Places, Record, compare_records, replay
from benchmark.measure.twin import pairs, parse
from trainers.prompting.backbones.openai import clip

TINY = GOLDEN / "tiny_clip_seed0.safetensors"
FILES = {
    "datasets/__init__.py": "",
    "datasets/oxford_pets.py": """
import json
from pathlib import Path
from unittest.mock import patch
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum

@DATASET_REGISTRY.register()
class OxfordPets(DatasetBase):
    def __init__(self, cfg):
        folder = Path(cfg.DATASET.ROOT) / "oxford_pets"
        split = json.loads((folder / "split_zhou_OxfordPets.json").read_text())
        parts = [
            [Datum(str(folder / "images" / file), label, 0, name) for file, label, name in split[p]]
            for p in ("train", "val", "test")
        ]
        parts[0] = self.generate_fewshot_dataset(parts[0], num_shots=cfg.DATASET.NUM_SHOTS)
        first = 5 if cfg.DATASET.SUBSAMPLE_CLASSES == "new" else 0
        parts = [
            [Datum(i.impath, i.label - first, 0, i.classname) for i in part
             if first <= i.label < first + 5]
            for part in parts
        ]
        super().__init__(train_x=parts[0], val=parts[1], test=parts[2])
""",
    "trainers/__init__.py": "",
    "trainers/coop.py": """
import torch
from torch import nn
from clip import clip
from clip.model import build_model
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import load_checkpoint

class Contexts(nn.Module):
    def __init__(self, width, count):
        super().__init__()
        self.ctx = nn.Parameter(torch.randn(count, width) * 0.02)

@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    def build_model(self):
        url = clip._MODELS[self.cfg.MODEL.BACKBONE.NAME]
        self.clip = build_model(torch.load(clip._download(url))).float().requires_grad_(False)
        count = self.cfg.TRAINER.COOP.N_CTX
        names = [" ".join(["X"] * count + [name]) + "." for name in self.dm.dataset.classnames]
        self.ids = clip.tokenize(names)
        self.words = self.clip.token_embedding(self.ids)
        self.prompt_learner = Contexts(self.words.shape[-1], count)
        self.optim = build_optimizer(self.prompt_learner, self.cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, self.cfg.OPTIM)
        self.register_model("prompt_learner", self.prompt_learner, self.optim, self.sched)

    def model_inference(self, images):
        ctx, words = self.prompt_learner.ctx, self.words
        x = torch.cat([words[:, :1], ctx.expand(len(words), -1, -1), words[:, 1 + len(ctx):]], 1)
        x = (x + self.clip.positional_embedding).permute(1, 0, 2)
        x = self.clip.ln_final(self.clip.transformer(x).permute(1, 0, 2))
        text = x[torch.arange(len(x)), self.ids.argmax(-1)] @ self.clip.text_projection
        image = self.clip.encode_image(images)
        image, text = (x / x.norm(dim=-1, keepdim=True) for x in (image, text))
        return self.clip.logit_scale.exp() * image @ text.T

    def forward_backward(self, batch):
        logits = self.model_inference(batch["img"].cuda().to(self.device))
        loss = nn.functional.cross_entropy(logits, batch["label"])
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def load_model(self, directory, epoch=None):
        file = f"{directory}/prompt_learner/model.pth.tar-{epoch}"
        self.prompt_learner.load_state_dict(load_checkpoint(file)["state_dict"])
""",
    "train.py": """
import datasets.oxford_pets
import trainers.coop
from yacs.config import CfgNode as CN

def extend_cfg(cfg):
    cfg.TRAINER.COOP = CN({"N_CTX": 16, "PREC": "fp16"})
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"
""",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("public")
    shutil.copytree(Path(clip.__file__).parent, folder / "clip")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def twin(checkout, *words):
    words = ["measure", "twin", checkout, "--backbone", TINY, "--threads", "1", *words]
    return main([str(word) for word in words])


@pytest.fixture(scope="module")
def trained(checkout, tmp_path_factory):
    """The record of a training in the checkout, and what the command printed."""
    folder, out = tmp_path_factory.mktemp("kept") / "new", StringIO()
    words = ["--trainers", "CoOp", "--epochs", "2", "--set", "TRAINER.COOP.N_CTX=3"]
    with redirect_stdout(out):
        assert twin(checkout, *words, "--keep", folder) == 0
    return Record.read(folder / "coop.safetensors"), out.getvalue()


def test_a_training_that_is_the_same(trained):
    theirs, printed = trained
    assert theirs.tensors["pixels"].shape == (6, 4, 3, 32, 32)
    assert theirs.tensors["start/ctx"].shape == (3, 128)
    lr = theirs.tensors["lr"].tolist()
    assert lr[:3] == [1e-5] * 3 and lr[3:] == [lr[3]] * 3 and lr[3] > 0.001
    first, rest = (line for line in printed.splitlines() if line.startswith("CoOp  "))
    assert first.split()[:2] == ["CoOp", "6"]
    accuracies = [f"{theirs.facts[half]:.2f}" for half in ("base", "base", "new", "new")]
    assert first.split()[-4:] == accuracies
    assert rest.split() == ["CoOp", "0"]  # the column that no terminal has room for
    assert "schedule, warm-up and drop_last are the same code on both sides" in printed


@pytest.fixture
def places(tmp_path):
    write_pets(tmp_path, 32)
    return Places(tmp_path, TINY, tmp_path / "output")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("OPTIM.WEIGHT_DECAY 0.0", "weights differ"),
        ("SEED 2", "the few-shot images differ"),
        ("DATALOADER.TRAIN_X.DROP_LAST False", "ours has 8 steps, public code 6"),
    ],
)
def test_another_setting_of_ours_is_found(trained, places, change, problem):
    ours = replay(trained[0], places, change.split())
    if "why" in ours.facts:
        assert ours.facts["why"] == problem
    else:
        assert problem in compare_records(trained[0], ours).problems


def test_a_difference_makes_the_command_fail(checkout, capsys, trained, monkeypatch):
    facts, tensors = trained[0]
    others = {
        "learning rates differ": Record(facts, tensors | {"lr": 2 * tensors["lr"]}),
        "the few-shot images differ": Record(facts | {"images": []}, tensors),
    }
    for problem, other in others.items():
        record = lambda *_, other=other: other  # noqa: E731
        monkeypatch.setattr("benchmark.measure.twin.record_public", record)
        assert twin(checkout, "--trainers", "CoOp") == 1
        assert f"CoOp: {problem}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "shift", "problems", "predictions"),
    [
        ("loss", 2e-5, [], 0),
        ("loss", 2e-3, ["losses differ from step 6 on"], 0),
        ("loss", float("nan"), ["losses differ from step 6 on"], 0),
        ("lr", 1e-6, ["learning rates differ"], 0),
        ("final/prompt_learner.ctx", 1e-6, [], 0),
        ("final/prompt_learner.ctx", 1e-3, ["weights differ"], 0),
        ("logits/new", 1e-4, [], 0),
        ("logits/new", 100.0, ["1 predictions differ that are not close"], 1),
    ],
)
def test_the_limits(trained, key, shift, problems, predictions):
    theirs = trained[0]
    ours = {name.replace("/ctx", "/prompt_learner.ctx"): x for name, x in theirs.tensors.items()}
    changed = ours[key].clone()
    lowest = changed[-1].argmin() if key == "logits/new" else -1
    changed.view(-1)[lowest - changed.shape[-1] if key == "logits/new" else -1] += shift
    found = compare_records(theirs, Record({}, ours | {key: changed}))
    assert found.problems == problems and found.predictions == predictions


def test_a_prediction_may_differ_where_two_logits_are_close(trained):
    theirs = Record(trained[0].facts, dict(trained[0].tensors))
    logits = theirs.tensors["logits/base"].clone()
    logits[0] = torch.tensor([5.0, 5.0005, 0, 0, 0])
    theirs.tensors["logits/base"] = logits
    ours = theirs.tensors | {"logits/base": logits.clone()}
    ours["logits/base"][0, 0] += 0.001
    found = compare_records(theirs, Record({}, ours))
    assert found.predictions == 1 and not found.problems


def test_parameters_of_one_side(trained):
    theirs = trained[0]
    more = theirs.tensors | {f"{part}/gate": torch.ones(1) for part in ("start", "final")}
    for one, other in ((more, theirs.tensors), (theirs.tensors, more)):
        found = compare_records(Record({}, one), Record({}, other)).problems
        # public code may have parameters that it never changes
        assert found == ([] if one is more else ["one side alone trains gate"])
    more["final/gate"] = torch.zeros(1)
    found = compare_records(Record({}, more), theirs).problems
    assert found == ["one side alone trains gate"]


def test_the_random_clip_has_the_widths_of_public_code():
    state = torch.get_rng_state()
    clip_model = reacting_clip()
    assert torch.equal(torch.get_rng_state(), state)
    assert clip_model.ln_final.weight.shape == (512,)
    assert clip_model.visual.ln_post.weight.shape == (768,)
    assert clip_model.text_projection.shape == (512, 512)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--trainers CoOq", "There is no trainer 'CoOq': did you mean 'CoOp'?"),
        ("--trainers TPT", "TPT does not train on one view of labelled images alone: leave it"),
        ("--trainers CoPrompt", "CoPrompt does not train on one view of labelled images alone"),
        ("--trainers CoOp --epochs 0", "'0' is not a whole number, 1 or more"),
        ("--trainers CoOp --set OPTIM.LR", "'OPTIM.LR' is not KEY=VALUE"),
        ("--trainers CoOp --set OPTIM.LT=1", "OPTIM.LT"),
        ("--trainers CoOp --dassl {}", "has no dassl/engine: give a checkout of Dassl"),
        pytest.param("--trainers KgCoOp", "KgCoOp of '{}' ended with: ", marks=pytest.mark.slow),
    ],
)
def test_mistakes(checkout, capsys, words, sentence):
    with suppress(SystemExit):
        assert twin(checkout, *words.format(checkout).split()) == 2
    errors = capsys.readouterr().err.splitlines()
    assert sentence.format(checkout) in errors[-1]
    assert len(errors) == (2 if "ended with" in sentence or "LT" in sentence else 1)


def test_a_key_goes_to_the_methods_that_read_it():
    words = ["checkout", "--trainers", "VPT", "IVLP", "--set", "TRAINER.VPT.N_CTX_VISION=2"]
    words += ["OPTIM.LR=0.5", "TRAINER.IVLP.N_CTX_TEXT=3"]
    with patch("benchmark.measure.twin.check_checkout"):
        args = parse(words)
    vpt, ivlp = (pairs(name, 32, args) for name in args.trainers)
    settings = dict(zip(vpt[::2], vpt[1::2], strict=True))
    assert settings["TRAINER.VPT.N_CTX_VISION"] == "2" and settings["OPTIM.LR"] == "0.5"
    assert "TRAINER.IVLP.N_CTX_TEXT" not in vpt and "TRAINER.VPT.N_CTX_VISION" not in ivlp


def test_a_folder_that_is_no_checkout(tmp_path, refusal):
    assert "CHECKOUT '" in refusal("twin", tmp_path, "--trainers", "CoOp")
