"""The cache of decoded images: same batches with and without, in one process and in several."""

import multiprocessing
import os
import signal
import sys

import numpy as np
import pytest
import torch
from dassl.data import DataManager, data_manager, decoded
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import Datum
from dassl.data.decoded import build_cache
from dassl.data.transforms.transforms import build_transform
from dassl.utils import read_image
from PIL import Image, ImageOps

linux = pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
MODES = ("RGB", "L", "RGBA", "P", "CMYK", "1", "I;16", "RGB")
SPREAD = 2000  # bytes that suffice for some of the images


def noise(seed, size=(9, 7)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def items(tmp_path):
    """Return 16 images of several sizes and modes, some with EXIF data."""
    written = []
    for i in range(16):
        mode = MODES[i % len(MODES)]
        path = tmp_path / f"{i}.{'jpg' if mode == 'CMYK' or i == 0 else 'png'}"
        image = noise(i, (8 + i, 20 - i))
        image = image.convert("L").convert("I;16") if mode == "I;16" else image.convert(mode)
        exif = Image.Exif()
        exif[0x0112] = 6  # rotate by 90 degrees
        image.save(path, **({"exif": exif} if i == 0 else {}))
        written.append(Datum(str(path), i % 2, 0, "ab"[i % 2]))
    return written


@pytest.fixture(
    params=[pytest.param(True, marks=linux, id="shared"), pytest.param(False, id="own")]
)
def forked(request, monkeypatch):
    """Return True where processes are forked, and share the cache."""
    monkeypatch.setattr(decoded, "FORKED", request.param)
    return request.param


@pytest.fixture
def reads(monkeypatch):
    """Return the number of images read from files so far, over all processes."""
    number, read = multiprocessing.get_context("fork").Value("i", 0), read_image

    def counted(path):
        with number.get_lock():
            number.value += 1
        return read(path)

    monkeypatch.setattr(data_manager, "read_image", counted)
    monkeypatch.setattr(data_manager, "_usable_cpus", lambda: 2)
    return number


def epochs(cfg, items, reads, n=3):
    """Return the batches of `n` epochs, and the images that each read from files."""
    torch.manual_seed(5)
    transform = build_transform(cfg, is_train=True)
    loader = build_data_loader(cfg, "RandomSampler", items, 4, tfm=transform)
    batches, counts = [], []
    for _ in range(n):
        before = reads.value
        batches += [batch["img"] for batch in loader]
        counts.append(reads.value - before)
    return torch.stack(batches), counts


@linux
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_and_workers_decode_an_image_once(make_cfg, items, reads, workers):
    def run(gib, workers):
        keys = ("DATALOADER.CACHE_GIB", gib, "DATALOADER.NUM_WORKERS", workers)
        return epochs(make_cfg(*keys), items, reads)

    expected, counts = run(0.0, 0)
    assert counts == [16, 16, 16]
    batches, counts = run(1.0, workers)
    assert torch.equal(batches, expected)
    assert counts == [16, 0, 0]
    batches, counts = run(SPREAD / 2**30, workers)
    assert torch.equal(batches, expected)
    assert counts[0] == 16
    assert 16 > counts[1] >= counts[2] > 0


def test_an_image_from_the_cache_is_one_that_was_decoded(items, forked):
    cache = build_cache(len(items), 2**20, 1)
    for i, item in enumerate(items):
        assert cache.get(i) is None
        image = read_image(item.impath)
        cache.put(i, image)
        image.paste(0, (0, 0, *image.size))  # a transform may write into it
        for _ in range(2):
            image, kept = read_image(item.impath), cache.get(i)
            assert (kept.mode, kept.size, kept.info) == (image.mode, image.size, image.info)
            assert kept == image
            turned, wanted = ImageOps.exif_transpose(kept), ImageOps.exif_transpose(image)
            assert turned == wanted
            assert (turned.size != image.size) == (i == 0)
            kept.paste(0, (0, 0, *kept.size))


def test_both_training_parts_keep_within_one_size(make_cfg, reads, forked):
    dm = DataManager(make_cfg("DATALOADER.CACHE_GIB", SPREAD / 2**30))
    parts = [dm.train_loader_x.dataset, dm.train_loader_u.dataset]
    assert [len(part) for part in parts] == [21, 6]
    assert dm.test_loader.dataset.decoded is None
    for _ in range(2):
        before = reads.value
        for part in reversed(parts):
            for i in range(len(part)):
                assert part._decode(i) == read_image(part.data_source[i].impath)
    most = SPREAD // (10 * 12 * (3 if forked else 4))
    assert most - 1 <= 27 - (reads.value - before) <= most


@linux
def test_processes_fill_the_cache_at_once():
    images, size = 60, (9, 7)
    cache = build_cache(images, 2**20, 2)
    context = multiprocessing.get_context("fork")
    start = context.Barrier(3)

    def fill(order):
        start.wait()
        for i in order:
            cache.put(i, noise(i, size))

    orders = [range(images), range(images)[::-1], range(0, images, 3)]
    processes = [context.Process(target=fill, args=(order,)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert all(cache.get(i) == noise(i, size) for i in range(images))


@linux
@pytest.mark.processes
def test_a_killed_worker_holds_no_lock_and_leaves_no_half_image():
    import fcntl

    cache = build_cache(2, 2**20, 2)
    context = multiprocessing.get_context("fork")
    theirs, ours = context.Pipe()

    def reserve():
        with cache.room.alone():
            theirs.send("locked")
            signal.pause()

    process = context.Process(target=reserve)
    process.start()
    assert ours.recv() == "locked"
    with pytest.raises(OSError, match="unavailable"):
        fcntl.lockf(cache.room.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    process.kill()
    process.join()

    def copy():
        os.pwritev = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        cache.put(0, noise(0))

    process = context.Process(target=copy)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert cache.get(0) is None
    for i in range(2):
        cache.put(i, noise(i))
        assert cache.get(i) == noise(i)
