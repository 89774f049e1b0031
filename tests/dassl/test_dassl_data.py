"""Few-shot sampling, samplers, transforms and loaders, also with broken images."""

import io
import json
import multiprocessing
import random
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from dassl.data import DataManager, DatasetWrapper, data_manager
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DatasetBase, Datum
from dassl.data.samplers import RandomClassSampler, RandomSampler, SeededIndex, build_sampler
from dassl.data.transforms.transforms import build_transform
from dassl.utils import DataError, UserError, read_image
from PIL import EpsImagePlugin, Image
from torchvision import transforms as T

from trainers import prompting
from trainers.prompting.images import image_files

# The package and dassl-lite, which is used without it, read images alike.
READERS = {read_image: DataError, image_files.read_single: prompting.UserError}

PROTOCOL = json.loads((Path(__file__).parents[1] / "golden" / "protocol.json").read_text())


def data_of(part):
    return [Datum(path, label, 0, name) for path, label, name in PROTOCOL["split"][part]]


def test_few_shot_corner_cases(capsys):
    items = [Datum(f"{i}.png", int(i > 2), 0, "ab"[i > 2]) for i in range(5)]
    dataset = DatasetBase(train_x=items, test=items)
    assert len(dataset.generate_fewshot_dataset(items, num_shots=3)) == 5
    assert "Fewer than 3 images of b (2): all of them are taken" in capsys.readouterr().out
    assert len(dataset.generate_fewshot_dataset(items, num_shots=3, repeat=True)) == 6
    assert dataset.generate_fewshot_dataset(items) is items
    both = dataset.generate_fewshot_dataset(items, items, num_shots=1)
    assert [len(part) for part in both] == [2, 2]
    assert dataset.classnames == ["a", "b"]
    assert dataset.lab2cname == {0: "a", 1: "b"}
    assert dataset.num_classes == 2
    with pytest.raises(UserError, match="no training images"):
        DatasetBase(train_x=[], test=items)


def test_manager(make_cfg, capsys):
    dm = DataManager(make_cfg("DATASET.NUM_SHOTS", 4))
    assert len(dm.dataset.train_x) == 12
    assert (dm.num_classes, dm.num_source_domains) == (3, 0)
    assert len(dm.train_loader_x) == 3
    assert len(dm.test_loader.dataset) == 12
    assert re.search(r"# train_x +12\n", capsys.readouterr().out)
    batch = next(iter(dm.train_loader_x))
    assert batch["img"].shape == (4, 3, 8, 8)
    assert set(batch) == {"img", "label", "domain", "impath", "index"}
    (unlabelled,) = dm.train_loader_u
    assert unlabelled["img"].shape == (4, 3, 8, 8)


def test_custom_transforms_and_wrapper(make_cfg):
    class Wrapper(DatasetWrapper):
        def __getitem__(self, idx):
            return {**super().__getitem__(idx), "twice": 2 * idx}

    cfg = make_cfg()
    plain = build_transform(cfg, is_train=False)
    dm = DataManager(cfg, custom_tfm_train=lambda image: -plain(image), dataset_wrapper=Wrapper)
    batch = next(iter(dm.train_loader_x))
    first = dm.dataset.train_x[batch["index"][0]]
    assert torch.equal(batch["img"][0], -plain(read_image(first.impath)))
    assert torch.equal(batch["twice"], 2 * batch["index"])


def test_views(make_cfg):
    cfg = make_cfg("DATALOADER.K_TRANSFORMS", 3)
    dm = DataManager(cfg)
    item = dm.train_loader_x.dataset[0]
    assert len(item["img"]) == 3
    views = next(iter(dm.train_loader_x))["img"]
    assert [view.shape for view in views] == [(4, 3, 8, 8)] * 3
    assert not torch.equal(item["img"][0], item["img"][1])
    assert isinstance(dm.test_loader.dataset[0]["img"], torch.Tensor)
    raw = DataManager(make_cfg("INPUT.NO_TRANSFORM", True)).train_loader_x.dataset[0]
    assert raw["img"].size == (10, 12)


def test_an_incomplete_training_batch_is_left_out_unless_it_is_the_only_one(make_cfg):
    cfg = make_cfg()
    data = DataManager(cfg).dataset.train_x
    sizes = [(21, 4, 5), (20, 4, 5), (9, 8, 1), (8, 8, 1), (3, 8, 1)]
    for images, batch_size, batches in sizes:
        loader = build_data_loader(
            cfg, "RandomSampler", data[:images], batch_size, tfm=build_transform(cfg)
        )
        assert len(list(loader)) == len(loader) == batches
    with pytest.raises(UserError, match="no images to test on"):
        build_data_loader(cfg, data_source=[], is_train=False)


def test_an_epoch_draws_one_number_from_the_global_generator():
    data = data_of("train")
    torch.manual_seed(0)
    first = list(RandomSampler(data))
    after = torch.rand(1)
    torch.manual_seed(0)
    torch.randint(2**62, ())
    assert torch.equal(torch.rand(1), after)
    assert sorted(first) == list(range(len(data)))
    assert len({index.seed for index in first}) == len(data)


def test_seeded_index_fixes_the_augmentation_and_nothing_else(make_cfg):
    dataset = DataManager(make_cfg()).train_loader_x.dataset
    states = random.getstate(), torch.get_rng_state()
    first = dataset[SeededIndex(3, seed=11)]["img"]
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert torch.equal(first, dataset[SeededIndex(3, seed=11)]["img"])
    assert not torch.equal(first, dataset[SeededIndex(3, seed=12)]["img"])


@pytest.mark.parametrize(("gib", "reads"), [(1.0, 12), (0.0, 24), (5 * 10 * 12 * 4 / 2**30, 18)])
def test_training_images_are_decoded_once_while_there_is_room(make_cfg, monkeypatch, gib, reads):
    cfg = make_cfg("DATASET.NUM_SHOTS", 4, "DATALOADER.CACHE_GIB", gib, "DATALOADER.NUM_WORKERS", 0)
    items = DataManager(cfg).dataset.train_x
    assert {read_image(item.impath).size for item in items} == {(10, 12)}
    opened = []
    read = data_manager.read_image
    monkeypatch.setattr(data_manager, "read_image", lambda *of: opened.append(of) or read(*of))
    data = DatasetWrapper(cfg, items, build_transform(cfg, is_train=True), is_train=True)
    once, again = ([data[SeededIndex(i, seed=7)]["img"] for i in range(12)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    assert len(opened) == reads


def test_class_sampler():
    data = data_of("train")
    sampler = build_sampler("RandomClassSampler", data_source=data, batch_size=8, n_ins=4)
    order = list(sampler)
    assert len(order) == len(sampler)
    for start in range(0, len(order), 8):
        labels = [data[i].label for i in order[start : start + 8]]
        assert len(set(labels[:4])) == len(set(labels[4:])) == 1
        assert labels[0] != labels[4]
    many = list(RandomClassSampler(data, batch_size=200, n_ins=100))
    assert len({data[i].label for i in many[:200]}) == 2
    with pytest.raises(UserError, match="cannot fill a batch of 8"):
        RandomClassSampler(data, batch_size=8, n_ins=16)


ALL = [
    ("random_flip", "imagenet_policy"),
    ("random_crop", "cifar10_policy", "colorjitter", "normalize"),
    ("random_resized_crop", "svhn_policy", "randomgrayscale", "gaussian_blur"),
    ("center_crop", "randaugment", "normalize"),
]


@pytest.mark.parametrize("choices", ALL)
def test_every_transform_gives_an_image_of_the_right_size(make_cfg, choices):
    cfg = make_cfg("INPUT.TRANSFORMS", choices, "INPUT.SIZE", (16, 16), "INPUT.GB_K", 3)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transform = build_transform(cfg)
        for _ in range(5):
            result = transform(image)
            assert result.shape == (3, 16, 16)
            assert torch.isfinite(result).all()


@pytest.mark.parametrize("mode", ["bicubic", "bilinear", "nearest"])
@pytest.mark.parametrize("shape", [(24, 16), (33, 97), (8, 8), (9, 11), (5, 7), (8, 301)])
def test_pixels_are_those_of_torchvision(make_cfg, mode, shape):
    keys = "INPUT.TRANSFORMS", ["normalize"], "INPUT.INTERPOLATION", mode
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    for size in ((8, 8), (8, 6), (5, 8)):
        cfg = make_cfg("INPUT.SIZE", size, *keys)
        finish = [T.ToTensor(), T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD)]
        for is_train, resized in ((True, size), (False, max(size))):
            steps = [T.Resize(resized, T.InterpolationMode(mode)), T.CenterCrop(size), *finish]
            found = build_transform(cfg, is_train)(image)
            assert torch.equal(found, T.Compose(steps)(image))


@pytest.mark.parametrize("read", READERS)
def test_images_of_every_mode_become_rgb(tmp_path, read):
    ramp = np.linspace(0, 255, 64).reshape(8, 8).round().astype(np.uint8)
    colours = Image.fromarray(np.stack([ramp, ramp.T, 255 - ramp], axis=-1))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"):
        path = tmp_path / f"{mode}.{'jpg' if mode in ('CMYK', 'YCbCr') else 'png'}"
        written = colours.convert(mode)
        written.save(path, quality=100, subsampling=0)
        image = read(str(path))
        assert (image.mode, image.size) == ("RGB", (8, 8)), mode
        error = np.asarray(image).astype(int) - np.asarray(written.convert("RGB"))
        assert abs(error).max() <= 3, mode  # JPEG
    deep = tmp_path / "16.png"
    Image.fromarray(ramp.astype(np.uint16) * 257).save(deep)
    assert np.array_equal(np.asarray(read_image(str(deep)))[..., 0], ramp)


@pytest.mark.parametrize(
    ("dtype", "scale", "too_large", "rule"),
    [("float32", 1 / 255, 256, "but floats must"), ("int32", 257, 65536, "but whole numbers")],
)
def test_images_of_large_numbers(tmp_path, dtype, scale, too_large, rule):
    ramp = np.linspace(0, 255, 64).reshape(8, 8).round()
    path = tmp_path / "large.tiff"
    for factor in (1, scale):
        Image.fromarray((ramp * factor).astype(dtype)).save(path)
        assert np.array_equal(np.asarray(read_image(str(path)))[..., 1], ramp)
    bad = {-1: "from -1 to 255", too_large: f"from 0 to {too_large}"}
    for value, said in (bad | ({np.nan: "from nan to nan"} if dtype == "float32" else {})).items():
        Image.fromarray(np.where(ramp == ramp[3, 3], value, ramp).astype(dtype)).save(path)
        match = f"large.tiff' has pixels {said}, {rule}"
        with pytest.raises(DataError, match=match) as error:
            read_image(str(path))
        assert error.value.exit_code == 1


@pytest.mark.parametrize("read", READERS)
def test_postscript_is_not_run(tmp_path, monkeypatch, read):
    path = tmp_path / "photo.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **_: ran.append(args))
    with pytest.raises(READERS[read], match="PostScript is a program"):
        read(str(path))
    assert not ran


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
Image.fromarray(NOISE).save(PNG := io.BytesIO(), "PNG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"), (b"no image", "cannot identify"), (None, "No image at"),
        (PNG.getvalue()[:5000], "Cannot decode"),
    ],
)  # fmt: skip
def test_broken_images_are_named(tmp_path, content, reason):
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as error:
        read_image(str(path))
    assert str(path) in str(error.value)
    assert error.value.exit_code == 1


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_workers_are_forked_in_every_python(make_cfg, monkeypatch):
    monkeypatch.setattr(multiprocessing.context._default_context, "_actual_context", None)
    multiprocessing.set_start_method("forkserver")  # the default of Python 3.14
    methods = {}
    for workers in (0, 1):
        cfg = make_cfg("DATALOADER.NUM_WORKERS", workers)
        loader = build_data_loader(cfg, data_source=[Datum("a.png", 0, 0, "a")], is_train=False)
        context = loader.multiprocessing_context
        methods[workers] = context and context.get_start_method()
    assert methods == {0: None, 1: "fork"}


def test_a_worker_raises_one_sentence(make_cfg):
    cfg = make_cfg("DATALOADER.NUM_WORKERS", 1)
    data = [Datum("/nowhere/a.png", 0, 0, "a")]
    loader = build_data_loader(cfg, data_source=data, is_train=False, tfm=None)
    with pytest.raises(DataError) as error:
        list(loader)
    assert str(error.value).startswith("No image at '/nowhere/a.png':")
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 1
