"""Trainings that a class asks for: rates, averages, buffers alone, unlabelled images."""

import pytest
import torch
from cases import slow_but
from tiny import HALVES, OF_HALVES, learned, results, run, write_halves
from torch import nn

from benchmark.records import value_of
from trainers.prompting import Method, Staged, Unlabelled, load_run, register
from trainers.prompting.methods.coop import CoOp

WHOLE = ["DATALOADER.TRAIN_X.BATCH_SIZE", "16", "OPTIM.LR", "0.01", "OPTIM.WARMUP_EPOCH", "0"]


class Rated(CoOp):
    """Two factors of the logits, which learn at different rates."""

    rates = {"fac": 2.0, "factors.slow": 0.5}

    def build(self, *given):
        super().build(*given)
        zeros = (nn.Parameter(torch.zeros(())) for _ in range(2))
        self.factors = nn.ParameterDict(dict(zip(("fast", "slow"), zeros, strict=True)))

    def logits(self, image, text):
        return super().logits(image, text) * (1 + self.factors["fast"] + self.factors["slow"])


class Averaged(Staged, CoOp):
    """Evaluates the exponential moving average of its context."""

    def build(self, *given):
        super().build(*given)
        self.register_buffer("average", self.prompt_learner.ctx.detach().clone())

    def contexts(self):
        contexts = super().contexts()
        return contexts if self.training else contexts._replace(text=[self.average[None]])

    @torch.no_grad()
    def after_step(self):
        self.average.lerp_(self.prompt_learner.ctx, 0.5)


class Counted(Method):
    """Learns nothing by gradients: adds the losses of its steps."""

    node = "COUNTED"

    def build(self, *given):
        self.register_buffer("sum", torch.zeros(()))

    def backward(self, terms, scale=None):
        self.sum += terms["loss"].detach()


SEEN = []  # for each step the numbers of images and labels, for each method the names


class Sure(Unlabelled, CoOp):
    """A CoOp that becomes sure of its predictions, whichever they are."""

    def take_classes(self, classnames):
        SEEN.append(list(classnames))

    def loss(self, output, batch):
        SEEN.append((len(batch.images), len(batch.labels)))
        return -(output.logits.softmax(-1) * output.logits.log_softmax(-1)).sum(-1).mean()


@pytest.fixture(autouse=True)
def registered():
    SEEN.clear()
    for kind in (Rated, Averaged, Counted, Sure):
        register(kind)


def state_of(output, epoch):
    content = torch.load(next(output.glob(f"*/model.pth.tar-{epoch}")), weights_only=False)
    return {**content["state_dict"], **content["method"]}


def test_rates_by_parameter(tmp_path):
    """Gradients of both factors are the same; so are steps, but for their rates."""
    output = tmp_path / "rated"
    assert run(tmp_path, "Rated", output, 1, extra=WHOLE) == 0
    state = state_of(output, 1)
    assert state["factors.slow"] != 0
    torch.testing.assert_close(state["factors.fast"], 4 * state["factors.slow"])


def test_clipped_gradients(tmp_path):
    """The key reaches the optimiser, and is a setting of the run."""
    output = tmp_path / "clipped"
    more = [*WHOLE, "OPTIM.CLIP_NORM", "1e-4"]
    assert run(tmp_path, "Rated", output, 1, extra=more) == 0
    assert 0 < abs(state_of(output, 1)["factors.fast"]) <= 0.01 * 2 * 1e-4
    assert value_of(results(output), "OPTIM.CLIP_NORM") == 1e-4


@pytest.mark.parametrize(
    ("name", "body", "more", "said"),
    [
        (
            "Misnamed",
            {"rates": {"facts": 2.0}},
            [],
            "`rates` of Misnamed has 'facts', but it learns nothing",
        ),
        (
            "Staged",
            {},
            ["OPTIM.STAGED_LR", "True"],
            "has `rates` of its own: leave one of them out",
        ),
    ],
)
def test_rates_that_do_not_fit(tmp_path, capsys, name, body, more, said):
    register(type(name, (Rated,), body))
    assert run(tmp_path, name, None, 1, extra=[*WHOLE, *more]) == 2
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_average_after_each_step(tmp_path):
    output = tmp_path / "once"
    more = [*WHOLE, "TRAIN.CHECKPOINT_FREQ", "1"]
    assert run(tmp_path, "Averaged", output, 2, extra=more) == 0
    first, last = state_of(output, 1), state_of(output, 2)
    mean = torch.lerp(first["average"], last["ctx"], 0.5)
    torch.testing.assert_close(last["average"], mean)
    assert not torch.equal(last["average"], last["ctx"])
    assert load_run(output).model.average.equal(last["average"])


def test_buffers_without_parameters(tmp_path, capsys):
    """They train, resume and are evaluated as parameters are."""
    output = tmp_path / "counted"
    more = [*WHOLE, "TRAIN.CHECKPOINT_FREQ", "1"]
    assert run(tmp_path, "Counted", output, 2, extra=more) == 0
    first, last = state_of(output, 1)["sum"], state_of(output, 2)["sum"]
    assert 0 < first < last
    folder = next(output.glob("*/checkpoint")).parent
    (folder / "model.pth.tar-2").unlink()
    (folder / "checkpoint").write_text("model.pth.tar-1\n")
    (output / "results.json").unlink()
    assert run(tmp_path, "Counted", output, 2, "--resume", str(output), extra=more) == 0
    assert torch.equal(state_of(output, 2)["sum"], last)
    assert "Trained parameters: 0\n" in capsys.readouterr().out


# ------------------------------------------------------------------ unlabelled images


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
        assert run(data, "Sure", folder, 2, extra=[*OF_HALVES, "base", *WHOLE]) == 0
        return learned(folder, 2)["ctx"]

    class Interrupted(Exception):
        pass

    straight, folder = ends(tmp_path / "straight"), tmp_path / "interrupted"
    before = Sure.loss

    def stopped(self, output, batch):
        if len(SEEN) > 4:  # in the second epoch
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
