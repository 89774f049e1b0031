"""Out-of-distribution detection: scores by hand, records of runs, and refused data sets."""

from math import exp
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
from dassl.data.datasets import DATASET_REGISTRY, Datum
from sklearn.metrics import roc_auc_score
from tiny import TinyColours, TinyOthers, results, run
from torch import nn

from benchmark.launch.data import fingerprint_at
from benchmark.records import value_of
from trainers.prompting import UserError, build_method, load_clip
from trainers.prompting.encoders.text import TextFeatures
from trainers.prompting.encoders.vision import ImageFeatures
from trainers.prompting.method import METHODS, Method, Output
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.trainer.detection import Detection, check_files, scores
from trainers.prompting.trainer.trainer import PromptTrainer

OOD = ["TEST.OOD", "['TinyOthers']"]


@DATASET_REGISTRY.register()
class TinyUntested(TinyOthers):
    """A data set without test images."""

    dataset_dir = "../tiny_untested"  # of its own: images of one name differ
    splits = {"train": 6, "val": 0, "test": 0}


@DATASET_REGISTRY.register()
class TinyOne(TinyOthers):
    """A data set with one image to test on."""

    dataset_dir = "../tiny_one"
    colours = property(lambda self: {"tower": (200, 40, 40)})
    splits = {"train": 1, "val": 0, "test": 1}


@DATASET_REGISTRY.register()
class TinyShared(TinyOthers):
    """A data set with classes of the run, in other spellings."""

    dataset_dir = "../tiny_shared"
    names = ["Annual_Crop", "tower", " sea", "Road", "forest"]
    colours = property(lambda self: dict.fromkeys(self.names, (9, 99, 199)))


def softmax(*cosines):
    return [exp(c) / sum(map(exp, cosines)) for c in cosines]


def clip_like(num_patches=0, kind=Method):
    """A method without its encoders."""
    method = kind.__new__(kind)
    nn.Module.__init__(method)
    method.logit_scale = torch.tensor(100.0)
    object.__setattr__(method, "image_encoder", SimpleNamespace(num_patches=num_patches))
    return method


def output(cosines, r=None, h=None):
    z = torch.ones(len(cosines), 1, 2)
    h = torch.ones(1, 2, 2) if h is None else h
    return Output(100 * torch.tensor(cosines), ImageFeatures(z, r), TextFeatures(h, h))


def test_gl_mcm_by_hand():
    """Two visual and two textual prompts; the third state of each is a visual prompt."""
    r = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [1.0, 0.0]], [[0.6, 0.8], [0.6, 0.8], [1.0, 0.0]]])
    h = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]]])
    model = clip_like(num_patches=2)
    found = scores(model, output([[0.5, 0.1]], r[None], h))
    # patch 1: for class 1, the mean of 1, 1, 0.6, 0.6; for class 2, that of 0, 0.6, 0.8, 1
    local = max(softmax(0.8, 0.6)[0], softmax(0.6, (0.8 + 1) / 2)[1])
    mcm = softmax(0.5, 0.1)[0]
    assert found["mcm"].item() == pytest.approx(mcm, abs=1e-6)
    assert found["gl_mcm"].item() == pytest.approx(mcm + local, abs=1e-6)


def test_texts_of_each_image_have_separate_local_scores():
    model = clip_like(1, METHODS["CoCoOp"])
    r = torch.tensor([[[[1.0, 0.0]]], [[[1.0, 0.0]]]])
    h = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [0.8, 0.6]]])
    found = scores(model, output([[0.5, 0.5], [0.5, 0.5]], r, h))
    expected = [0.5 + softmax(1, 0)[0], 0.5 + softmax(0.6, 0.8)[1]]
    assert found["gl_mcm"].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "node", "prompts"),
    [("ALIGN", {"M": 2, "N": 2, "N_CTX": 3, "DEPTH": 2}, 3), ("PLOT", {"N": 2}, 0)],
)
def test_patches_are_all_states_but_class_token_and_prompts(tiny_clip, name, node, prompts):
    """The tiny CLIP has 16 patches."""
    model = build_method(name, node, tiny_clip, ["forest", "sea"]).eval()
    found = model.output(torch.randn(1, 3, 32, 32))
    assert found.image.r.shape[2] == 16 + prompts
    local = found.image.r[:, :, :16].mean(1) @ found.text.h.mean(0).T
    expected = scores(model, found)["mcm"] + local.softmax(-1).amax((1, 2))
    torch.testing.assert_close(scores(model, found)["gl_mcm"], expected)


def test_other_data_change_nothing_of_a_run(tmp_path):
    """Random numbers and predictions stay the same; other data follow only the last evaluation."""
    plain, other = tmp_path / "plain", tmp_path / "other"
    extra = ["TEST.FINAL_MODEL", "best_val", "DATALOADER.TRAIN_X.SAMPLER", "RandomClassSampler"]
    extra += ["DATALOADER.TRAIN_X.N_INS", "2"]
    assert run(tmp_path, "PLOT", plain, 1, extra=extra) == 0
    assert run(tmp_path, "PLOT", other, 1, extra=extra + OOD) == 0
    before, after = (read_predictions(folder) for folder in (plain, other))
    assert all((before[name] == after[name]).all() for name in before)
    assert "ood" not in results(plain) and results(plain)["accuracy"] == results(other)["accuracy"]
    (found,) = results(other)["ood"].values()
    assert found.keys() == {"auroc_mcm", "fpr95_mcm", "auroc_gl_mcm", "fpr95_gl_mcm", "images"}
    assert found["images"] == 12 and value_of(results(other), "TEST.OOD") == ["TinyOthers"]
    hashes = {"TinyOthers": fingerprint_at("TinyOthers", str(tmp_path))}
    assert results(other)["ood_fingerprints"] == hashes
    log = (other / "log.txt").read_text()
    assert log.count("Evaluate on TinyOthers") == log.count("Out of distribution: TinyOthers") == 1
    assert f"MCM: AUROC {found['auroc_mcm']:.2f}%" in log


def test_every_image_is_encoded_once_and_scored_as_the_plain_model_does(tmp_path, monkeypatch):
    seen, trainers = [], []
    inference, evaluate = PromptTrainer.model_inference, Detection.evaluate_others

    def noted(self, images):
        logits = inference(self, images)
        seen.append((images, logits))
        return logits

    monkeypatch.setattr(PromptTrainer, "model_inference", noted)
    monkeypatch.setattr(
        Detection, "evaluate_others", lambda *both: (trainers.append(both[1]), evaluate(*both))
    )
    out = tmp_path / "out"
    assert run(tmp_path, "ZeroshotCLIP", out, extra=[*OOD, "DATALOADER.TEST.BATCH_SIZE", "5"]) == 0
    assert [len(images) for images, _ in seen] == [5, 5, 5, 1, 5, 5, 2]
    (trainer,) = trainers
    scale = load_clip(trainer.cfg.MODEL.BACKBONE.NAME).logit_scale.exp()
    expected = torch.cat([(logits / scale).softmax(1).amax(1) for _, logits in seen])
    columns = trainer.detection.columns
    found = torch.cat([columns[name]["mcm"] for name in ("TinyColours", "TinyOthers")])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    (numbers,) = results(out)["ood"].values()
    assert numbers.keys() == {"auroc_mcm", "fpr95_mcm", "images"}  # no patches
    truth = [1] * 16 + [0] * 12
    assert numbers["auroc_mcm"] == pytest.approx(100 * roc_auc_score(truth, found), abs=1e-9)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("['TinyColours']", "TEST.OOD names TinyColours, which shares 4 of its classes"),
        ("['TinyOther']", "There is no data set 'TinyOther': did you mean 'TinyOthers'?"),
        ("[3]", "There is no data set '3'"),
        ("TinyOthers", "'TEST.OOD' to 'TinyOthers', but it must be of type list"),
        ("['TinyUntested']", "TinyUntested has no images to test on"),
    ],
)
def test_unusable_data_sets_are_refused(tmp_path, capsys, names, sentence):
    assert run(tmp_path, "CoOp", extra=["TEST.OOD", names]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
    assert not list(tmp_path.rglob("model.pth*")), "it has trained"


def test_shared_classes_are_found_in_any_spelling(tmp_path, capsys):
    assert run(tmp_path, "CoOp", extra=["TEST.OOD", "['TinyShared']"]) == 2
    assert capsys.readouterr().err == (
        "error: TEST.OOD names TinyShared, which shares 4 of its classes with this run "
        "('Annual_Crop', ' sea', 'Road', ...): name data sets of other classes\n"
    )


def test_images_of_the_run_are_found_behind_links(tmp_path):
    own = [Datum(str(tmp_path / "a.png")), Datum(str(tmp_path / "b.png"))]
    (tmp_path / "a.png").touch()
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "c.png").touch()
    others = [Datum(str(tmp_path / name)) for name in ("c.png", "link.png")]
    check_files("Others", others[:1], own)
    with pytest.raises(UserError, match="has 1 of the images of this run, such as '.*link.png'"):
        check_files("Others", others, own)


def test_other_names_for_the_images_of_the_run_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(TinyOthers, "dataset_dir", TinyColours.dataset_dir)
    monkeypatch.setattr(tiny, "Datum", lambda impath, label, classname: Datum(
        str(Path(impath).with_name(f"test_sea_{label}.png")), label, classname=classname
    ) if "tower" in impath else Datum(impath, label, classname=classname))  # fmt: skip
    assert run(tmp_path, "CoOp", extra=OOD) == 2
    assert "TEST.OOD names TinyOthers, which has 4 of the images of" in capsys.readouterr().err


def test_one_image_is_enough(tmp_path):
    extra = ["TEST.OOD", "['TinyOne']"]
    assert run(tmp_path, "ZeroshotCLIP", tmp_path / "out", extra=extra) == 0
    found = results(tmp_path / "out")["ood"]["TinyOne"]
    assert found["images"] == 1 and found["fpr95_mcm"] in (0, 100)
