"""What a method must keep to in its steps: shapes, what is optimised, terms of the loss."""

import json

import pytest
import tiny
import torch
from test_method import IMAGES, LABELS, Mine, build
from torch import nn

from trainers.prompting import UserError, register
from trainers.prompting.methods.coop import CoOp


def test_inserted_tokens_without_a_block_for_them(tiny_clip):
    class Inserting(Mine):
        def contexts(self):
            return super().contexts()._replace(inserted=torch.zeros(3, 2, 128))

    with pytest.raises(UserError, match="returns `inserted` tokens, but .* insert_block=i"):
        build(Inserting, tiny_clip)(IMAGES)


def test_logits_with_one_dimension_more(tiny_clip):
    class Kept(Mine):
        def logits(self, image, text):
            return super().logits(image, text)[:, None]

    with pytest.raises(UserError, match=r"logits of Kept have the shape \(4, 1, 3\) but must have"):
        build(Kept, tiny_clip).losses(IMAGES, LABELS)


def mistaken(name, **functions):
    return type(name, (CoOp,), functions)


def without_super(self, clip_model, classnames, dataset):
    self.scale = nn.Parameter(torch.ones(()))


def detached(self, output, batch):
    return {"ce": CoOp.loss(self, output, batch), "apart": output.text.h.detach().sum()}


def replaced(self, image, text):
    self.scale = nn.Parameter(torch.ones((), device=image.z.device))
    return self.scale * CoOp.logits(self, image, text)


def replaced_later(self, epoch, last):
    self.prompt_learner.ctx = nn.Parameter(self.prompt_learner.ctx.detach().clone())


def listed(self, image, text):
    if not hasattr(self, "heads"):
        self.heads = [nn.Linear(1, 1)]
    return self.heads[0](CoOp.logits(self, image, text)[..., None])[..., 0]


RUNS = {
    "Bare": ({"build": without_super}, "Bare has no attribute 'prompt_learner', which"),
    "Replaced": ({"logits": replaced}, "Replaced has made, replaced or removed parameters"),
    "Later": ({"after_epoch": replaced_later}, "after `build` (prompt_learner.ctx), which its"),
    "Listed": ({"logits": listed}, "Listed keeps a tensor that requires a gradient in 'heads.0"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_ends_with_a_sentence(tmp_path, capsys, name):
    functions, said = RUNS[name]
    register(mistaken(name, **functions))
    assert tiny.run(tmp_path, name, None, 1) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.glob("output/*/model*"))


def test_terms_of_a_loss_that_train_nothing(tmp_path, capsys):
    register(mistaken("Apart", loss=detached))
    assert tiny.run(tmp_path, "Apart", None, 1) == 0
    said = "No gradient comes from apart of the loss of Apart: nothing learns it"
    assert capsys.readouterr().out.count(said) == 1
    losses = json.loads((tmp_path / "output" / "results.json").read_text())["losses"]
    assert losses.keys() == {"loss", "ce", "apart", "acc"}
    assert losses["loss"] == pytest.approx(losses["ce"] + losses["apart"], rel=1e-5)
