"""Exported programs give the logits of their method, and hold only what images need."""

import pytest
import torch
from cases import slow_but
from models import NAMES, images, settings, support_of

from trainers.prompting import UserError, build_method
from trainers.prompting.method import METHODS
from trainers.prompting.use.export import program, text_classifier

# With updates of weights, a cache, tokens and LayerNorms in the blocks.
QUICK = ("CLIPLoRA", "TipAdapterF")
OURS = [name for name, kind in METHODS.items() if kind.__module__.startswith("trainers.")]
AT_TEST_TIME = ("TPT", "TDA", "MTA", "ZERO", "TPS", "CTPT", "OTPT", "TransCLIP", "StatA",
                "BoostAdapter", "DPE", "TTC", "RTPT")  # fmt: skip
CASES = slow_but([n for n in OURS if n not in AT_TEST_TIME], *QUICK)


@pytest.mark.parametrize("name", CASES)
def test_a_program_of_every_method(tiny_clip, name):
    node = settings(name)
    method = build_method(name, node, tiny_clip, NAMES, support=support_of(name)).eval()
    with torch.no_grad():  # as if trained
        for parameter in method.learned().values():
            parameter += 0.02 * torch.randn_like(parameter)
    made = program(method, 32)
    with torch.no_grad():
        for count in (1, 6):
            found, expected = made.module()(images(count)), method(images(count))
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    if name != "CoCoOp":
        text = tiny_clip.transformer.resblocks[0].mlp.c_fc.weight
        held = [*made.state_dict.values(), *made.constants.values()]
        assert not any(value.data_ptr() == text.data_ptr() for value in held)
        assert sum(value.numel() for value in held if value.shape[:1] == (49408,)) == 0


@pytest.mark.parametrize("name", AT_TEST_TIME)
def test_what_adapts_to_the_images_is_refused(tiny_clip, name):
    method = build_method(name, settings(name), tiny_clip, NAMES).eval()
    for export in (lambda: program(method, 32), lambda: text_classifier(method)):
        with pytest.raises(UserError, match=f"{name} adapts to the images that it classifies") as x:
            export()
        assert all(other in str(x.value) for other in AT_TEST_TIME)
