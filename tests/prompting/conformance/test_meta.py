"""Steps of every method on the device `meta`, whose tensors have shapes only.

As on a GPU, reading a value there is an error, for which the host would wait; so are two devices in
one operation. `tests/accelerator` has the numbers, on a GPU.
"""

from contextlib import nullcontext

import pytest
import torch
from cases import NAMES, SETTINGS, slow_but
from golden_files import FILES, OF_SEVERAL, awt_few_shot, awt_views, build, build_several, read
from paths import GOLDEN
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainers.prompting import Teacher, build_method, load_clip
from trainers.prompting.running.precision import Precision
from trainers.prompting.step import training_step
from trainers.prompting.transport.solver import Sinkhorn

DEPTH = 3  # a first block, one with deep prompts or other additions, and the last
TINY = str(GOLDEN / "tiny_clip_seed0.safetensors")
META = torch.device("meta")


class OneDevice(TorchDispatchMode):
    """Lets an operation have tensors of one device, except for copies and numbers."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        copies = func.overloadpacket.__name__ in ("_to_copy", "copy_")
        if len({x.device for x in tensors if x.dim()}) > 1 and not copies:
            raise RuntimeError(f"tensors on two devices: {func}")
        return func(*args, **(kwargs or {}))


def step_on_meta(method, clip_model, batch):
    """Move a method and its CLIP to `meta`; do a step, if it trains, and an evaluation."""
    how = Precision("fp32", META)
    how.autocast = nullcontext  # meta has none
    how.place(method, clip_model)
    clip_model.to(META)  # on a GPU, tensors in both are still the same after `place`
    method.to(META).train()
    views = [view.to(META) for view in batch.views]
    batch = method.batch(views, batch.labels.to(META))
    with OneDevice():
        if method.trains and (parameters := list(method.learned().values())):
            training_step(method, batch, torch.optim.SGD(parameters, lr=0.1, momentum=0.9), how)
        method.eval()
        with torch.no_grad():
            method(views[0])


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch):
    """On `meta` all iterations are computed, as nobody can see that there are enough."""
    few = lambda solve: object.__setattr__(solve, "max_iter", 3)  # noqa: E731
    monkeypatch.setattr(Sinkhorn, "__post_init__", few)


def take_step(method, clip_model, views, labels) -> None:
    """Do a training step and an evaluation on `meta`, with fewer blocks and sentences."""
    contexts = method.contexts()
    least = max([DEPTH, *(i + 2 for i in method.image_encoder.inner)])  # others repeat these
    for encoder, deep in ((clip_model, contexts.text), (clip_model.visual, contexts.vision)):
        del encoder.transformer.resblocks[max(least, len(deep or ())) :]
    for teacher in (part for part in method.modules() if isinstance(part, Teacher)):
        del teacher.sentences.rows[2:]
    step_on_meta(method, clip_model, method.batch(views, labels))


FIRST = {path.stem.partition("_")[0]: path for path in reversed(FILES)}  # of each method
QUICK = [FIRST[name] for name in ("align", "coop", "maple", "cocoop", "tda", "cliplora")]


@pytest.mark.parametrize("path", slow_but(FILES, *QUICK), ids=lambda path: path.stem)
def test_methods_with_a_golden_file(path, tmp_path):
    golden, clip_model = read(path), load_clip(TINY)
    method = build(golden, clip_model, tmp_path)
    take_step(method, clip_model, golden.views, golden.tensors["label"])


def test_awt():
    golden, clip_model = read(GOLDEN / "awt.safetensors"), load_clip(TINY)
    method = awt_few_shot(golden, clip_model)
    step_on_meta(method, clip_model, method.batch(awt_views(golden), golden.tensors["label"]))


WITHOUT = [
    "UPT",
    "ALIGN, independent",
    "ALIGN, unified",
    "ALIGN, small lambda",
]


@pytest.mark.parametrize("setting", slow_but(WITHOUT, "ALIGN, small lambda"))
def test_settings_without_one(setting):
    name, node = SETTINGS[setting]
    clip_model = load_clip(TINY)
    method = build_method(name, node, clip_model, NAMES)
    views = [torch.randn(4, 3, 32, 32)] * method.views
    take_step(method, clip_model, views, torch.tensor([0, 1, 2, 0]))


@pytest.mark.parametrize("name", OF_SEVERAL)
def test_methods_with_a_golden_file_of_several_labels(name):
    golden, method, clip_model = build_several(name)
    images = golden.tensors["image"].float()
    labels = torch.ones(len(images), method.num_classes, dtype=torch.int8)
    step_on_meta(method, clip_model, method.batch(images, labels))


@pytest.mark.parametrize("name", ["CoOp", "MaPLe", "PLOT", "ALIGN"])
def test_a_learned_bias_of_several_labels(name):
    node = SETTINGS[name][1] if name in SETTINGS else {"N": 2}
    clip_model = load_clip(TINY)
    method = build_method(name, node, clip_model, NAMES, several=True)
    labels = torch.tensor([[1, 0, 0], [0, 1, -1]], dtype=torch.int8)
    take_step(method, clip_model, [torch.randn(2, 3, 32, 32)], labels)


def test_what_is_refused():
    there = torch.ones(2, 2, device="meta")
    with OneDevice():
        assert (there @ there + torch.tensor(1.0)).device == torch.device("meta")
        with pytest.raises(RuntimeError, match="tensors on two devices: aten.mm"):
            there @ torch.ones(2, 2)
        with pytest.raises(RuntimeError, match=r"item\(\) cannot be called on meta"):
            bool(there.sum() > 0)
