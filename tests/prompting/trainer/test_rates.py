"""What a class says of its training: rates by parameter, averages after steps, buffers alone."""

import pytest
import torch
from tiny import run
from torch import nn

from trainers.prompting import Method, load_run, register
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


class Averaged(CoOp):
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


def state_of(output, epoch):
    content = torch.load(next(output.glob(f"*/model.pth.tar-{epoch}")), weights_only=False)
    return {**content["state_dict"], **content["method"]}


def test_rates_by_parameter(tmp_path):
    """Gradients of both factors are the same; so are steps, but for their rates."""
    register(Rated)
    output = tmp_path / "rated"
    assert run(tmp_path, "Rated", output, 1, extra=WHOLE) == 0
    state = state_of(output, 1)
    assert state["factors.slow"] != 0
    torch.testing.assert_close(state["factors.fast"], 4 * state["factors.slow"])


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
    register(Averaged)
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
    register(Counted)
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
