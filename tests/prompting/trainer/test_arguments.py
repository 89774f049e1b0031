"""Wrong arguments of the library (class names, images, BETA): one sentence each."""

import math
import re

import pytest
import torch

from trainers.prompting import build_method


def test_a_text_in_place_of_class_names(tiny_clip):
    with pytest.raises(TypeError, match="classnames is the text 'cat': give a list of names"):
        build_method("KgCoOp", {}, tiny_clip, "cat")


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_of_another_shape(tiny_clip, mode):
    model = build_method("MaPLe", {"PROMPT_DEPTH": 2}, tiny_clip, ["cat", "dog"])
    model.train(mode == "train")
    for shape in ((0, 3, 32, 32), (2, 3, 64, 64), (2, 3, 32, 16), (2, 1, 32, 32), (3, 32, 32)):
        sentence = f"images has shape {shape} but must be (B, 3, 32, 32), B at least 1"
        with pytest.raises(ValueError, match=re.escape(sentence)):
            model(torch.zeros(shape))


@pytest.mark.parametrize(
    ("method", "node"),
    [("CoOp", {}), ("MaPLe", {"PROMPT_DEPTH": 2}), ("ALIGN", {"M": 2, "N": 2, "DEPTH": 2})],
)
def test_pixels_that_are_not_finite_give_nan_for_their_image_alone(tiny_clip, method, node):
    model = build_method(method, node, tiny_clip, ["cat", "dog"]).eval()
    images = torch.randn(3, 3, 32, 32)
    expected = model(images)
    for pixel in (math.nan, math.inf):
        images[1, 2, 3, 4] = pixel
        logits = model(images)
        assert logits[1].isnan().all()
        torch.testing.assert_close(logits[[0, 2]], expected[[0, 2]])
