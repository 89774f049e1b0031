"""Methods for several labels an image: parity with published code, and what only they refuse."""

import pytest
import torch
from golden_files import build_several, near

from trainers.prompting import UserError, build_method
from trainers.prompting.losses import asymmetric


def check_step(golden, method):
    """Check logits, loss and gradients of a step."""
    tensors, own = golden.tensors, method.train().public_parameters()
    batch = method.batch(tensors["image"].float(), tensors["label"])
    output = method.output(batch.images)
    terms = method.terms(output, batch)
    assert near(terms["loss"], tensors["loss"])
    method.backward(terms)
    grads = golden.part("grad/")
    assert grads.keys() == own.keys()
    for name, value in grads.items():
        assert (own[name].grad - value).norm() < 1e-3 * value.norm(), name
    return output


@pytest.mark.parametrize("name", ["ml_dualcoop", "ml_dualcoop_dassl"])
def test_dualcoop(name):
    golden, method, _ = build_several(name)
    assert {*method.public_state_dict()} == golden.params.keys()
    output = check_step(golden, method)
    assert near(output.logits, golden.tensors["logits"])
    with torch.no_grad():
        assert near(method.eval()(golden.tensors["image"].float()), golden.tensors["logits"])
    logits, labels = golden.tensors["logits"], golden.tensors["label"]
    for setting, value in golden.part("asl/").items():
        gamma_neg, gamma_pos, clip = (float(x.strip("negposcli")) for x in setting.split("_"))
        found = asymmetric(logits, labels, gamma_neg, gamma_pos, clip).sum()
        assert torch.allclose(found, value, rtol=1e-5), setting


def test_names_in_a_checkpoint_of_dualcoop_say_its_form():
    golden, _, _ = build_several("ml_dualcoop")
    _, method, _ = build_several("ml_dualcoop_dassl")
    with pytest.raises(UserError, match="'ctx_pos', as those of the form original: set TRAINER"):
        method.load_public_state_dict(golden.params)


def test_one_label_is_a_label_of_no_other_class(tiny_clip):
    labels = torch.tensor([0, 2])
    several = torch.nn.functional.one_hot(labels, 3).to(torch.int8)
    images, losses = torch.randn(2, 3, 32, 32), []
    for given, many in ((labels, False), (several, True)):
        torch.manual_seed(0)
        method = build_method("DualCoOp", {}, tiny_clip, ["cat", "dog", "owl"], several=many)
        losses.append(method.losses(images, given)["loss"])
    assert losses[0] == losses[1]
