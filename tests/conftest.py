import functools
import gc
import io
import os
import pickle
import subprocess
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # what is tested is too small to be divided
os.environ.pop("COLUMNS", None)  # or the help of commands would have other lines

import pytest
import torch
from paths import GOLDEN, ROOT

TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
sys.path.insert(0, str(ROOT))
from trainers.prompting.method import import_methods  # noqa: E402

import_methods()  # tests are collected for all, also those of a single file
gc.disable()  # until all tests are imported
# Until then, bytecode is kept for the next call and for the processes that tests start.
without_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, False
# also in the processes that tests start
here = [str(ROOT / "dassl-lite"), os.environ.get("PYTHONPATH", "")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, here))


def pytest_xdist_auto_num_workers(config):
    """Return a worker a core and one that waits for processes, at most four, of 1.5 GB each.

    None for single files.
    """
    single = any(".py" in str(argument) for argument in config.args)
    return 0 if single else min(4, 1 + (os.cpu_count() or 1))


def pytest_xdist_make_scheduler(config, log):
    """Give files with tests that wait for processes to one worker: side by side they are late."""
    from xdist.scheduler import LoadFileScheduling

    class Apart(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "processes" if waits_for_processes(file) else file

    return Apart(config, log)


@functools.cache
def waits_for_processes(file):
    return "mark.processes" in (ROOT / file).read_text()


def pytest_collection_modifyitems(items):
    """Tests that wait for processes come last."""
    items.sort(key=lambda item: item.get_closest_marker("processes") is not None)


def pytest_collection_finish():
    """Search what is imported by now for garbage no more: that was a fifth of a training's time."""
    sys.dont_write_bytecode = without_bytecode  # tests change plug-ins within a second
    gc.freeze()
    gc.enable()
    gc.collect()


def pytest_unconfigure():
    gc.unfreeze()  # or libraries report leaks


def seed():
    """Seed PyTorch; what it notes for accelerators that are not there takes a millisecond."""
    (torch if torch.accelerator.is_available() else torch.default_generator).manual_seed(0)


@pytest.fixture(autouse=True)
def seeded():
    seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """Make what tests share the same, whichever tests ran before."""
    if fixturedef.scope != "function":
        seed()


@pytest.fixture(autouse=True)
def streams():
    """train.py's logger takes over the streams of the process; give them back."""
    before = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = before


@pytest.fixture(autouse=True)
def threads():
    """Commands of `measure` set the threads of the process, which change last bits; restore them.

    For models this small, several threads only wait for each other.
    """
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return a folder that holds a run folder for each of three methods, and their images."""
    from tiny import run

    root, streams = tmp_path_factory.mktemp("runs"), (sys.stdout, sys.stderr)
    for trainer in ("ALIGN", "CoOp", "ZeroshotCLIP"):
        assert run(root, trainer, root / trainer, 1) == 0
        sys.stdout, sys.stderr = streams
    return root


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that gives a folder on a separate small disk with so many KiB left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk]
    if os.name != "posix" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs Linux and its root")

    def with_room(kib):
        (disk / "ballast").write_bytes(bytes((256 - kib) << 10))
        return disk

    yield with_room
    subprocess.run(["umount", "--lazy", disk], check=True)  # the log is still open


def copies_of(model):
    """Return a function that copies a model, in a third of the time of `copy.deepcopy`."""
    file, tensors = io.BytesIO(), [*model.parameters(), *model.buffers()]
    places = {id(tensor): i for i, tensor in enumerate(tensors)}

    class Structure(pickle.Pickler):
        def persistent_id(self, value):
            return places.get(id(value))

    Structure(file).dump(model)

    def copy():
        new = [x.detach().clone() for x in tensors]
        for i, _ in enumerate(model.parameters()):
            new[i] = torch.nn.Parameter(new[i], tensors[i].requires_grad)
        unpickler = pickle.Unpickler(io.BytesIO(file.getvalue()))
        unpickler.persistent_load = new.__getitem__
        return unpickler.load()

    return copy


@pytest.fixture(autouse=True, scope="session")
def loaded_once():
    """Keep the CLIPs of hundreds of tests after the first load: a copy takes a 30th of the time.

    A load draws random numbers; after a copy, their state is that after a load from the same state.
    """
    from trainers.prompting.backbones import openai

    load, models, after = openai.load, {}, {}

    def copied(name):
        elsewhere = torch.get_default_device().type != "cpu" or torch.is_inference_mode_enabled()
        if name not in ("emoji", TINY) or elsewhere:
            return load(name)  # `methods` loads without memory, on "meta"
        before = name, torch.get_rng_state().numpy().tobytes()
        if before not in after:
            model = load(name)
            models[name] = models.get(name) or copies_of(model)
            after[before] = torch.get_rng_state()
        torch.set_rng_state(after[before])
        return models[name]()

    openai.load = copied
    yield
    openai.load = load


@pytest.fixture(autouse=True, scope="session")
def stamps(tmp_path_factory):
    """Keep what plug-ins were checked for in a folder of this session, and do all checks."""
    from trainers.prompting.conformance import stamp

    stamp.STAMPS = tmp_path_factory.mktemp("checked")
    stamp.SECONDS = float("inf")  # a busy machine would leave some out


@pytest.fixture(scope="session")
def tiny_clip():
    """The tiny CLIP of the golden numbers: 4 blocks of width 128, 32x32 images, 16 patches."""
    from trainers.prompting import load_clip

    return load_clip(TINY)


@pytest.fixture
def of(tiny_clip, tmp_path):
    """Return a golden file, by its name, and its method, in eval mode."""
    from golden_files import build, read

    def of(name, **more):
        golden = read(GOLDEN / f"{name}.safetensors")
        return golden, build(golden, tiny_clip, tmp_path, **more).eval()

    return of


@pytest.fixture(autouse=True)
def unregistered():
    """Remove what a test registers, and plug-ins: others use all methods, and load them again."""
    from dassl.data.datasets import DATASET_REGISTRY
    from dassl.engine import TRAINER_REGISTRY

    from trainers.prompting import plugins
    from trainers.prompting.method import METHODS

    before, loaded, lists = dict(METHODS), {*plugins._loaded}, (plugins.extenders, plugins._plugins)
    lengths = [*map(len, lists)]
    yield
    METHODS.clear()
    METHODS.update(before)
    new = {os.path.basename(place).removesuffix(".py") for place in plugins._loaded - loaded}
    for registry in (DATASET_REGISTRY, TRAINER_REGISTRY):
        kinds = registry._objects
        for name in [name for name, kind in kinds.items() if kind.__module__ in new]:
            del kinds[name]
    for name in new:
        sys.modules.pop(name, None)
    plugins._loaded.intersection_update(loaded)
    for found, length in zip(lists, lengths, strict=True):
        del found[length:]
