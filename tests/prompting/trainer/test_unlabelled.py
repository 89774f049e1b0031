"""Methods that train on unlabelled images of all classes."""

import pytest
import torch
from cases import slow_but
from tiny import HALVES, OF_HALVES, run, write_halves

from trainers.prompting import register
from trainers.prompting.methods.coop import CoOp

SEEN = []  # for each step the numbers of images and labels, for each method the names


class Sure(CoOp):
    """A CoOp that becomes sure of its predictions, whichever they are."""

    unlabelled = True

    def take_classes(self, classnames):
        SEEN.append(list(classnames))

    def loss(self, output, batch):
        SEEN.append((len(batch.images), len(batch.labels)))
        return -(output.logits.softmax(-1) * output.logits.log_softmax(-1)).sum(-1).mean()


@pytest.fixture(autouse=True)
def registered():
    SEEN.clear()
    register(Sure)


@pytest.mark.parametrize("half", slow_but(["base", "new", "all"], "new"))
def test_steps_take_the_images_of_both_halves_without_labels(tmp_path, capsys, half):
    data = write_halves(tmp_path / "data")
    assert run(data, "Sure", tmp_path / "out", 2, extra=[*OF_HALVES, half]) == 0
    names, *batches = SEEN
    own = {"base": HALVES[:3], "new": HALVES[3:], "all": HALVES}[half]
    assert names[: len(own)] == own and sorted(names) == HALVES
    again = [names, (4, 0), (4, 0)]  # a plug-in's method is built again, after both epochs
    assert batches == ([(4, 0)] * 6 + again) * 2  # 25 images
    assert "batch [6/6]" in (said := capsys.readouterr().out) and " acc " not in said


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(tmp_path):
    data = write_halves(tmp_path / "data")

    def ends(folder):
        assert run(data, "Sure", folder, 2, extra=[*OF_HALVES, "base"]) == 0
        path = folder / "prompt_learner" / "model.pth.tar-2"
        return torch.load(path, weights_only=True)["state_dict"]["ctx"]

    class Interrupted(Exception):
        pass

    straight, folder = ends(tmp_path / "straight"), tmp_path / "interrupted"
    before = Sure.loss

    def stopped(self, output, batch):
        if len(SEEN) > 11:  # in the second epoch
            raise Interrupted
        return before(self, output, batch)

    SEEN.clear()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Sure, "loss", stopped)
        ends(folder)
    assert torch.equal(ends(folder), straight)


def test_a_data_set_without_unlabelled_images(tmp_path, capsys):
    assert run(tmp_path, "Sure", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        "error: Sure learns from unlabelled images, but TinyColours has none (`train_u`): choose a "
        "data set with training images\n"
    )


def test_a_batch_size_of_their_own(tmp_path, capsys):
    data = write_halves(tmp_path / "data")
    own = ["DATALOADER.TRAIN_U.SAME_AS_X", "False"]
    assert run(data, "Sure", tmp_path / "out", extra=[*OF_HALVES, "base", *own]) == 2
    assert "leave DATALOADER.TRAIN_U.SAME_AS_X True" in capsys.readouterr().err
