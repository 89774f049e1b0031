"""Images of another size than the CLIP's own, by interpolated positions (INPUT.INTERPOLATE)."""

import numpy as np
import pytest
import tiny
import torch
from models import RESNET, clip_of

from trainers.prompting import ImageEncoder, UserError, load_run
from trainers.prompting.backbones.positions import interpolate_positions


def cubic(n, m, a=-0.75):
    """Return the weights (m, n) of a bicubic interpolation of n places to m, edges repeated."""
    weights = np.zeros((m, n))
    for i in range(m):
        place = (i + 0.5) * n / m - 0.5
        start = int(np.floor(place))
        for k in range(start - 1, start + 3):
            d = abs(place - k)
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            far = a * (d**3 - 5 * d**2 + 8 * d - 4)
            weights[i, min(max(k, 0), n - 1)] += near if d <= 1 else far
    return weights


@pytest.mark.parametrize("sizes, patch", [({"vision_patch_size": 8}, 8), (RESNET, 32)])
@pytest.mark.parametrize("size", [128, 64])
def test_positions_are_interpolated(sizes, patch, size):
    visual = clip_of(**{"image_resolution": 96} | sizes).visual
    holder = getattr(visual, "attnpool", visual)
    before = holder.positional_embedding.detach().double().numpy()
    n, m = 96 // patch, size // patch
    interpolate_positions(visual, size)
    after = holder.positional_embedding.detach().numpy()
    weights = cubic(n, m)
    grid = np.einsum("ia,jb,abw->ijw", weights, weights, before[1:].reshape(n, n, -1))
    assert np.allclose(after[1:], grid.reshape(m * m, -1), atol=1e-6)
    assert np.allclose(after[:1], before[:1], atol=1e-7)
    z = ImageEncoder(visual)(torch.rand(2, 3, size, size)).z
    assert z.isfinite().all() and visual.input_resolution == size


def test_the_own_size_changes_nothing():
    visual = clip_of().visual
    before = visual.positional_embedding
    interpolate_positions(visual, 32)
    assert visual.positional_embedding is before


def test_what_cannot_be_interpolated():
    with pytest.raises(UserError, match="INPUT.SIZE is 40, but .* patches of 16 .*, such as 32"):
        interpolate_positions(clip_of().visual, 40)


def test_a_run_reads_larger_images(tmp_path):
    root = tiny.write_halves(tmp_path / "images")
    words = ["DATASET.NAME", "ImageFolder", "INPUT.INTERPOLATE", "True", "INPUT.SIZE"]
    assert tiny.run(root, "ZeroshotCLIP", tmp_path / "run", 1, extra=[*words, "(64, 64)"]) == 0
    run = load_run(tmp_path / "run")
    assert run.images.size == 64 == run.model.image_encoder.visual.input_resolution
    found = tiny.results(tmp_path / "run")["run"]["data"]
    assert found["images"]["size"] == [64, 64] and found["INPUT.INTERPOLATE"] is True
