"""StatA: every number of its golden file, its first variance as released, mistakes."""

import pytest
import torch
from golden_files import near, read
from paths import GOLDEN

from trainers.prompting import build_method
from trainers.prompting.encoders.text import TextFeatures
from trainers.prompting.encoders.vision import ImageFeatures


@pytest.fixture(scope="module")
def golden():
    return read(GOLDEN / "stata_batches_streams.safetensors")


def made(golden, clip_model, **more):
    node = golden.meta["config"] | more
    return build_method("StatA", node, clip_model, golden.meta["classnames"], "EuroSAT").eval()


STREAMS = [("0.1", 7), ("0.001", 7), ("-1", 7)]
BATCHES = [f"batch/{i}" for i in range(4)]
BATCHES += [f"stream/{gamma}/{i}" for gamma, count in STREAMS for i in range(count)]


@pytest.mark.parametrize(
    ("more", "blocks"),
    [
        ({}, [*BATCHES, "all"]),
        ({"SOFT_BETA": True}, ["soft"]),
        ({"LAMBDA_LAPLACIAN": 0.0}, ["no_laplacian"]),
    ],
)
def test_every_batch(golden, tiny_clip, more, blocks):
    method, tensors = made(golden, tiny_clip, **more), golden.tensors
    h = tensors["frozen/text_features"]
    assert near(method.text().h[0], h, 1e-5)
    for block in blocks:
        stream, _, i = block.rpartition("/")
        of_stream = block.startswith("stream")
        rows = tensors[f"{stream}/order"][int(i)] if of_stream else tensors[f"{block}/index"]
        x = tensors["query/features"][rows]
        found = method.predict_all(ImageFeatures(x[:, None], None), TextFeatures(h[None], h[None]))
        expected = tensors[f"{block}/z"]
        assert near(found.exp(), expected), block
        assert torch.equal(found.argmax(1), expected.argmax(1)), block


def test_every_round(golden, tiny_clip):
    tensors = golden.tensors
    x = tensors["query/features"][tensors["batch/2/index"]]
    solver = made(golden, tiny_clip).solver(x, tensors["frozen/text_features"])
    start = solver.start()
    assert torch.allclose(start.v, tensors["batch/2/init/cov"].expand_as(start.v), rtol=1e-4)
    for i, state in enumerate(solver.rounds(start, 0.0)):
        assert near(state.log_z.exp(), tensors["batch/2/z_rounds"][i])
        if i:
            assert near(state.mu, tensors["batch/2/mu_rounds"][i - 1], 1e-5)
            assert torch.allclose(state.v, tensors["batch/2/cov_rounds"][i - 1], rtol=1e-4)
        if i < 10:
            share = solver.share(state.log_z.exp())[:, 0]
            assert near(share, tensors["batch/2/beta_rounds"][i], 1e-5)


def test_the_released_variance_of_many_images(golden, tiny_clip):
    """Sums are divided after each 2,500 images, so the last 500 of 3,000 decide."""
    x = golden.tensors["query/features"].repeat(17, 1)[:3000]
    h = golden.tensors["frozen/text_features"]
    solvers = [made(golden, tiny_clip, FORM=form).solver(x, h) for form in ("aligned", "released")]
    right, released = (solver.v0 for solver in solvers)
    q = (100 * x @ h.T).softmax(-1)
    each = torch.stack([(q * (x - h[:, None])[..., d].T.square()).sum(1) for d in range(64)], 1)
    assert torch.allclose(right, each.mean(0), rtol=1e-4)
    assert torch.allclose(
        released, (each[:2500].sum(0) / 3000 + each[2500:].sum(0)) / 3000, rtol=1e-4
    )
    assert 0.1 < float((released / right).mean()) < 0.25


def test_one_image_and_a_class_without_any(golden, tiny_clip):
    """One image counts half, and cannot move the other classes from their text."""
    x, h = golden.tensors["query/features"][:1], golden.tensors["frozen/text_features"]
    solver = made(golden, tiny_clip).solver(x, h)
    end = solver.last(solver.start(), 0.0)
    k = int(end.log_z.argmax())
    others = [i for i in range(6) if i != k]
    assert end.log_z.isfinite().all() and near(end.mu[others], h[others], 1e-5)
    assert not near(end.mu[k], h[k], 1e-2)
