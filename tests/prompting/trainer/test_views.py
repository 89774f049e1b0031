"""Test images of methods that adapt at test time: views, order, state, and what a run records."""

import numpy as np
import pytest
import tiny
import torch
from dassl.engine import build_trainer
from dassl.utils import read_image
from PIL import Image
from tiny import OF_HALVES, arguments, results, run, write_halves

import train
from trainers.prompting import load_run
from trainers.prompting.building import transforms as module
from trainers.prompting.building.transforms import OPERATIONS, augmix
from trainers.prompting.method import METHODS
from trainers.prompting.record.predictions import read_predictions
from trainers.prompting.running.seeding import seeded

TPT = ["TRAINER.TPT.BATCH_SIZE", "6", "TRAINER.TPT.SELECTION_P", "0.4"]
TPT += ["TRAINER.TPT.CTX_INIT", "a photo of a"]
TDA_VIEWS = ["TRAINER.TDA.VIEWS", "10"]


def made(root, trainer, *opts, seed=1):
    args = [*arguments(root, trainer), "SEED", str(seed), "VERBOSE", "False", *opts]
    return build_trainer(train.setup_cfg(train.parse_args(args)))


def batches(loader):
    return [(torch.stack(batch["img"]), batch["impath"]) for batch in loader]


def test_views_depend_on_the_seed_and_the_image_alone(tmp_path):
    trainer = made(tmp_path, "TPT", *TPT)
    state = torch.get_rng_state()
    ((views, files),) = batches(trainer.test_loader)
    assert views.shape == (6, 16, 3, 32, 32)
    assert torch.equal(torch.get_rng_state(), state)
    plain = [trainer.test_loader.dataset.images.transform.plain(read_image(f)) for f in files]
    assert torch.equal(views[0], torch.stack(plain))
    assert len({tuple(view.flatten().tolist()) for view in views[:, 0]}) == 6
    small = made(tmp_path, "TPT", *TPT, "DATALOADER.TEST.BATCH_SIZE", "3",
                 "DATALOADER.NUM_WORKERS", "2")  # fmt: skip
    others = batches(small.test_loader)
    assert torch.equal(torch.cat([x for x, _ in others], 1), views)
    assert [f for _, of in others for f in of] == files
    ((drawn, _),) = batches(made(tmp_path, "TPT", *TPT, seed=2).test_loader)
    assert torch.equal(drawn[0], views[0]) and not torch.equal(drawn[1], views[1])


def test_every_loader_of_test_images_has_views(tmp_path):
    data = write_halves(tmp_path / "data")
    trainer = made(data, "TPT", *TPT, *OF_HALVES, "all", "TEST.OOD", "['TinyOthers']")
    (other,) = trainer.detection._loaders.values()
    for loader in (trainer.test_loader, trainer.validation, other):
        assert len(next(iter(loader))["img"]) == 6
    assert torch.is_tensor(next(iter(trainer.train_loader_x))["img"])
    plain = made(tmp_path, "ZeroshotCLIP").test_loader
    assert torch.is_tensor(next(iter(plain))["img"])


def test_a_stream_has_an_order_of_the_seed(tmp_path):
    def order(seed):
        loader = made(tmp_path, "TDA", seed=seed).test_loader
        first, second = ([f for b in loader for f in b["impath"]] for _ in range(2))
        assert first == second
        return first

    one, two = order(1), order(2)
    assert one != two and sorted(one) == sorted(two) and one != sorted(one)


def test_predictions_are_in_the_order_of_the_data_set(tmp_path):
    found = {}
    for name, seed in (("ZeroshotCLIP", 1), ("TDA", 1), ("TDA", 2)):
        out = tmp_path / f"{name}{seed}"
        assert run(tmp_path, name, out, extra=["SEED", str(seed)]) == 0
        found[name, seed] = read_predictions(out)
    for arrays in found.values():
        assert arrays["image"].tolist() == found["ZeroshotCLIP", 1]["image"].tolist()
        assert arrays["label"].tolist() == found["ZeroshotCLIP", 1]["label"].tolist()
    logs = [of["label_log_probability"] for of in found.values()]
    assert not np.allclose(logs[1], logs[2]), "another order"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainer", "more"), [("TPT", TPT), ("TDA", []), ("TDA", TDA_VIEWS)], ids=str
)
def test_a_run_counts_its_seed_and_can_be_repeated(tmp_path, trainer, more, capsys):
    data = write_halves(tmp_path / "data")
    more = [*more, *OF_HALVES, "base"]
    outs = [tmp_path / name for name in ("one", "again", "workers")]
    workers = ["DATALOADER.NUM_WORKERS", "2", "DATALOADER.TEST.BATCH_SIZE", "5"]
    for out, extra in zip(outs, ([], [], workers), strict=True):
        assert run(data, trainer, out, extra=[*more, *extra, "TEST.OOD", "['TinyOthers']"]) == 0
    assert f"{trainer} has nothing to train" in capsys.readouterr().out
    first, *others = map(results, outs)
    assert first["seeded"] and first["num_params"] == 0 and first["temperature"]
    assert "depend on the test images" in first["joint_note"]
    assert first["beyond"] == ["one test image" if trainer == "TPT" else "test stream"]
    assert first["ood"]["TinyOthers"]["images"] == 12
    for other in others:
        for key in ("accuracy", "temperature", "negative_log_likelihood"):
            assert other[key] == pytest.approx(first[key], rel=1e-5)
        assert other["ood"]["TinyOthers"] == pytest.approx(first["ood"]["TinyOthers"])
    out = tmp_path / "evaluated"
    flags = "--eval-only", "--model-dir", str(outs[0])
    assert run(data, trainer, out, 2, *flags, extra=more) == 0
    assert results(out)["negative_log_likelihood"] == first["negative_log_likelihood"]
    new = tmp_path / "new"
    assert run(data, trainer, new, 2, *flags, extra=[*more[:-1], "new"]) == 0
    assert results(new)["num_classes"] == 2 and results(new)["seeded"]


def test_an_interrupted_evaluation_starts_again_with_an_empty_state(tmp_path, monkeypatch):
    trainer = made(tmp_path, "TDA", "DATALOADER.TEST.BATCH_SIZE", "4")
    trainer.untrained = False
    expected = trainer.test()
    logs = trainer.predictions.columns()["label_log_probability"]
    TDA, calls = METHODS["TDA"], []
    before = TDA.predict

    def interrupted(self, images):
        calls.append(self.positive.n)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return before(self, images)

    monkeypatch.setattr(TDA, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.test()
    monkeypatch.setattr(TDA, "predict", before)
    assert trainer.method.positive.n > 0 and calls[0] == 0
    assert trainer.test() == expected
    assert torch.equal(trainer.predictions.columns()["label_log_probability"], logs)


def test_predict_draws_views_from_the_pixels(tmp_path):
    assert run(tmp_path, "TPT", tmp_path / "out", extra=TPT) == 0
    loaded, again = load_run(tmp_path / "out"), load_run(tmp_path / "out")
    file = next((tmp_path / "tiny_colours").glob("test_sea*"))
    image = read_image(str(file))
    views = loaded.preprocess(image)
    assert len(views) == 6
    assert all(torch.equal(a, b) for a, b in zip(views, again.preprocess(image), strict=True))
    logits = loaded.model.predict([view[None] for view in views]).logits
    assert logits.shape == (1, len(tiny.COLOURS)) and logits.isfinite().all()


def test_augmix_mixes_three_chains_of_one_to_three_operations(monkeypatch):
    monkeypatch.setattr(module, "OPERATIONS", [lambda changes: changes + 1])
    lengths = []

    def finish(changes):
        lengths.append(changes)
        return torch.ones(1)

    with seeded(0):
        drawn = torch.stack([augmix(0, finish) for _ in range(30)])
    assert torch.allclose(drawn, torch.ones(1))  # the weights sum to 1
    plain, *chains = zip(*(lengths[i : i + 4] for i in range(0, 120, 4)), strict=True)
    assert set(plain) == {0} and len(chains) == 3
    assert all(set(chain) == {1, 2, 3} for chain in chains)


def test_augmix_mixes_the_image_with_changed_ones():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3)).astype("uint8"))

    def finish(image):
        return torch.tensor(np.asarray(image)).float()

    with seeded(0):
        for operation in OPERATIONS:
            for _ in range(9):
                changed = operation(image)
                assert changed.size == image.size and changed.mode == "RGB"
        drawn = [augmix(image, finish) for _ in range(8)]
    assert all(mixed.min() >= 0 and mixed.max() < 255.01 for mixed in drawn)
    assert len({float(mixed.sum()) for mixed in drawn}) == 8
    plain = [augmix(Image.new("RGB", (8, 8), (90, 90, 90)), finish) for _ in range(8)]
    assert all(mixed.shape == (8, 8, 3) for mixed in plain)
