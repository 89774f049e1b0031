"""Runs with INPUT.DRAFT: named in the record, part of what makes a run, read alike everywhere."""

import numpy as np
import pytest
import tiny
import torch
from dassl.data import data_manager
from dassl.utils import Draft
from paths import ROOT
from PIL import Image
from tiny import arguments, results
from torchvision import transforms as T

import train
from benchmark.records import unlike
from recipe.configs import read_as, read_keys
from trainers.prompting import UserError, load_run
from trainers.prompting.building import transforms
from trainers.prompting.use.commands import predict

ON = ["DATASET.NAME", "ImageFolder", "INPUT.DRAFT", "True"]


def write_photographs(root):
    """Write a folder of 5 classes with 10 JPEGs of 160 x 128 each."""
    tiny.write_halves(root)
    for path in root.glob("*/*.png"):
        image = Image.open(path).resize((160, 128), Image.Resampling.BICUBIC)
        image.save(path.with_suffix(".jpg"), quality=90)
        path.unlink()
    return root


def run(root, trainer, output, *extra, flags=(), epochs=1):
    return train.run([*arguments(root, trainer, output, epochs, *flags), *ON, *extra])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = write_photographs(tmp_path_factory.mktemp("photographs") / "data")
    output, sizes, read = root.parent / "run", set(), data_manager.read_image

    def seen(path, draft):
        image = read(path, draft)
        sizes.add((draft, image.size))
        return image

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_manager, "read_image", seen)
        assert run(root, "CoOp", output) == 0
    assert sizes == {(Draft(64, 2), (80, 64)), (Draft(64, 8), (80, 64))}  # training, tests
    return root


def test_the_record_names_it_and_tables_part_by_it(trained, tmp_path):
    assert run(trained, "CoOp", tmp_path / "full", "INPUT.DRAFT", "False") == 0
    on, off = (results(folder)["config"] for folder in (trained.parent / "run", tmp_path / "full"))
    assert (on["INPUT"]["DRAFT"], off["INPUT"]["DRAFT"]) == (True, False)
    assert [*unlike(on, off)] == ["INPUT.DRAFT"]


def test_a_run_is_resumed_and_evaluated_as_it_was_trained(trained, tmp_path, capsys):
    off = "INPUT.DRAFT", "False"
    assert run(trained, "CoOp", trained.parent / "run", *off, epochs=2) == 2
    assert "was begun with other settings (INPUT.DRAFT True, now False" in capsys.readouterr().err
    flags = ["--eval-only", "--model-dir", str(trained.parent / "run")]
    assert run(trained, "CoOp", tmp_path / "other", *off, flags=flags) == 2
    said = capsys.readouterr().err
    assert "were trained with other settings (INPUT.DRAFT True, now False): set these as" in said
    words = arguments(trained, "CoOp", tmp_path / "same", 1, *flags)
    assert train.run([*words, "DATASET.NAME", "ImageFolder"]) == 0  # as the record says
    then, now = (results(folder) for folder in (trained.parent / "run", tmp_path / "same"))
    assert now["config"]["INPUT"]["DRAFT"] and then["accuracy"] == now["accuracy"]


def test_a_training_without_a_record_says_nothing(tmp_path):
    assert read_as("") == read_as(str(tmp_path)) == {}
    for text in (
        "{",
        "[]",
        '{"accuracy": 1, "config": 3}',
        '{"accuracy": 1, "config": {"INPUT": 1}}',
    ):
        (tmp_path / "results.json").write_text(text)
        assert read_as(str(tmp_path)) == {}


def test_it_is_on_for_image_folders_alone():
    on = [
        file.stem
        for file in (ROOT / "configs" / "datasets").glob("*.yaml")
        if read_keys(file).get("INPUT.DRAFT")
    ]
    assert on == ["image_folder"]


def test_transforms_that_take_pixels_as_they_are_are_refused(trained, tmp_path, capsys):
    crops = "INPUT.TRANSFORMS", "['random_crop', 'normalize']"
    assert run(trained, "CoOp", tmp_path, *crops) == 2
    said = "error: INPUT.DRAFT is True, but INPUT.TRANSFORMS random_crop takes pixels as they are"
    assert said in capsys.readouterr().err


def test_predict_reads_as_the_evaluation(trained):
    loaded, path = load_run(trained.parent / "run"), next(trained.glob("*/*.jpg"))
    image = loaded.read(path)
    assert image.size == (80, 64) and predict.read_frame(loaded, path).tobytes() == image.tobytes()
    transform = transforms.plain_transform(loaded.settings)
    assert torch.equal(loaded.preprocess(image), transform(image))
    png = trained.parent / "photo.png"
    Image.open(path).save(png)
    assert loaded.read(png).size == (160, 128)


def test_views_of_a_test_image_need_the_pixels_of_their_crops(trained, tmp_path):
    extra = ["INPUT.RRCROP_SCALE", "(0.08, 1.0)", "TRAINER.TPT.BATCH_SIZE", "2"]
    extra += ["TRAINER.TPT.SELECTION_P", "0.5"]
    assert run(trained, "TPT", tmp_path, *extra) == 0
    loaded = load_run(tmp_path)
    assert loaded.preprocess.draft == Draft(131, 2)  # 32 / sqrt(0.08 * 3 / 4)
    assert loaded.read(next(trained.glob("*/*.jpg"))).size == (160, 128)


def test_squashed_images_keep_the_draft(trained):
    cfg = load_run(trained.parent / "run").settings.clone()
    cfg.defrost()
    cfg.INPUT.RESIZE = "squash"
    transform = transforms.plain_transform(cfg)
    assert transform.draft == Draft(64, 8)
    assert transform(Image.fromarray(np.zeros((64, 80, 3), np.uint8))).shape == (3, 32, 32)


def test_a_dassl_that_decodes_all_pixels_is_refused(trained, monkeypatch, capsys, tmp_path):
    """The original Dassl's transforms say nothing of drafts."""
    monkeypatch.setattr(data_manager, "build_transform", lambda *_, **__: T.Compose([T.ToTensor()]))
    assert run(trained, "CoOp", tmp_path / "run") == 2
    said = "INPUT.DRAFT is True, but the installed Dassl decodes all pixels: train with it False"
    assert said in capsys.readouterr().err
    cfg = load_run(trained.parent / "run").settings
    parts = type("Parts", (), {"build_transform": staticmethod(lambda *_, **__: T.Compose([]))})
    monkeypatch.setattr(transforms, "dassl", lambda _: parts)
    with pytest.raises(UserError, match="decodes all pixels"):
        transforms.plain_transform(cfg)
