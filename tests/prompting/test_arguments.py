"""What the library is given by mistake: one sentence each."""

import re

import pytest
import torch

from trainers.prompting import PromptedCLIP, build_method, prompt_spec

NAMES = {
    "a text": ("cat", TypeError, "classnames is the text 'cat': give a list of names"),
    "none": ([], ValueError, "classnames is empty: give at least one name"),
    "numbers": ([0, 1], TypeError, "classnames has 0, which is no text: give a list of names"),
    "one number": (["cat", 1], TypeError, "classnames has 1, which is no text"),
    "None": ([None], TypeError, "classnames has None, which is no text"),
    "an empty name": (["cat", " "], ValueError, "A class name is empty: give every class a name"),
}


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("build", ["model", "method"])
def test_names_that_are_none(tiny_clip, case, build):
    names, error, sentence = NAMES[case]
    with pytest.raises(error, match=re.escape(sentence)):
        if build == "model":
            PromptedCLIP(tiny_clip, names, prompt_spec("CoOp", {}))
        else:
            build_method("KgCoOp", {}, tiny_clip, names)


@pytest.mark.parametrize(
    "shape", [(0, 3, 32, 32), (2, 3, 64, 64), (2, 3, 32, 16), (2, 1, 32, 32), (3, 32, 32)]
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_images_of_another_shape(tiny_clip, shape, mode):
    model = PromptedCLIP(tiny_clip, ["cat", "dog"], prompt_spec("MaPLe", {"PROMPT_DEPTH": 2}))
    model.train(mode == "train")
    sentence = f"images has shape {shape} but must be (B, 3, 32, 32), B at least 1"
    with pytest.raises(ValueError, match=re.escape(sentence)):
        model(torch.zeros(shape))
