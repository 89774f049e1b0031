"""Wrong arguments of the library (class names, images, BETA): one sentence each."""

import math
import re

import pytest
import torch

from trainers.prompting import UserError, build_method

NAMES = {
    "a text": ("cat", TypeError, "classnames is the text 'cat': give a list of names"),
    "none": ([], ValueError, "classnames is empty: give at least one name"),
    "numbers": ([0, 1], TypeError, "classnames has 0, which is not text: give a list of names"),
    "one number": (["cat", 1], TypeError, "classnames has 1, which is not text"),
    "None": ([None], TypeError, "classnames has None, which is not text"),
    "an empty name": (["cat", " "], ValueError, "A class name is empty: give every class a name"),
}


def test_invalid_class_names(tiny_clip):
    for names, error, sentence in NAMES.values():
        with pytest.raises(error, match=re.escape(sentence)):
            build_method("KgCoOp", {}, tiny_clip, names)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_of_another_shape_or_with_pixels_that_are_not_finite(tiny_clip, mode):
    model = build_method("MaPLe", {"PROMPT_DEPTH": 2}, tiny_clip, ["cat", "dog"])
    model.train(mode == "train")
    for shape in ((0, 3, 32, 32), (2, 3, 64, 64), (2, 3, 32, 16), (2, 1, 32, 32), (3, 32, 32)):
        sentence = f"images has shape {shape} but must be (B, 3, 32, 32), B at least 1"
        with pytest.raises(ValueError, match=re.escape(sentence)):
            model(torch.zeros(shape))
    images = torch.randn(3, 3, 32, 32)
    model(images)
    for pixel in (math.nan, math.inf, -math.inf):
        images[1, 2, 3, 4] = pixel
        with pytest.raises(ValueError, match="images has pixels that are nan or infinite") as error:
            model(images)
        assert "\n" not in str(error.value)


def test_large_pixels_in_half_precision_are_finite(tiny_clip):
    model = build_method("CoOp", {}, tiny_clip, ["cat", "dog"]).eval()
    images = torch.full((3, 3, 32, 32), 100.0, dtype=torch.float16)  # their sum overflows float16
    assert model(images).isfinite().all()


@pytest.mark.parametrize(
    ("method", "node"),
    [("CoOp", {}), ("MaPLe", {"PROMPT_DEPTH": 2}), ("ALIGN", {"M": 2, "N": 2, "DEPTH": 2})],
)
def test_without_the_check_only_such_an_image_has_nan_for_logits(tiny_clip, method, node):
    """On a GPU pixels are not checked (docs/use.md)."""
    model = build_method(method, node, tiny_clip, ["cat", "dog"]).eval()
    images = torch.randn(3, 3, 32, 32)
    expected = model(images)
    model.image_encoder.check = lambda images: None
    for pixel in (math.nan, math.inf):
        images[1, 2, 3, 4] = pixel
        logits = model(images)
        assert logits[1].isnan().all()
        torch.testing.assert_close(logits[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize("form", ["additive", "convex"])
def test_an_invalid_beta(tiny_clip, form):
    for beta in (math.inf, math.nan, -1.0):
        node = {"M": 2, "N": 2, "DEPTH": 2, "BETA": beta, "BETA_FORM": form}
        with pytest.raises(UserError, match=f"BETA is {beta} but must be"):
            build_method("ALIGN", node, tiny_clip, ["cat", "dog"])
