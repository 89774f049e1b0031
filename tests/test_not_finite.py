"""Numbers that are not finite are found before they are saved, recorded or printed."""

import pytest
import tiny
import torch
from tiny import COLOURS

from benchmark.__main__ import main
from trainers.prompting.trainer.trainer import PromptTrainer


def spoil(step):
    """Return a training step that sets the contexts to nan in the last step."""

    def spoiled(self, batch):
        result = step(self, batch)
        if (self.epoch + 1, self.batch_idx + 1) == (self.max_epoch, self.num_batches):
            self.model.prompt_learner.ctx.data.fill_(float("nan"))
        return result

    return spoiled


def saved(folder):
    return sorted(p.name for p in (folder / "prompt_learner").glob("model*"))


@pytest.mark.parametrize("predictions", ["True", "False"])
def test_prompts_that_the_last_step_spoils_are_not_saved(
    tmp_path, capsys, monkeypatch, predictions
):
    spoiled = spoil(PromptTrainer.forward_backward)
    monkeypatch.setattr(PromptTrainer, "forward_backward", spoiled)
    out, pairs = tmp_path / "out", ["TEST.PREDICTIONS", predictions]
    assert tiny.run(tmp_path, "CoOp", out, 2, extra=pairs) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and "'prompt_learner.ctx' is not finite" in line
    assert "after epoch 2" in line and "that of epoch 1 is kept" in line
    assert saved(out) == ["model.pth.tar-1"] and not (out / "results.json").exists()


def test_a_buffer_that_the_last_step_spoils(tmp_path, capsys, monkeypatch):
    def spoiled(self, epoch, last):
        next(iter(self.average.buffers())).fill_(float("nan"))

    from trainers.prompting.methods.promptsrc import PromptSRC

    monkeypatch.setattr(PromptSRC, "after_epoch", spoiled)
    depths = "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION"
    pairs = [word for depth in depths for word in (depth, "2")]
    assert tiny.run(tmp_path, "PromptSRC", None, 1, extra=pairs) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'average." in line and "there is none yet" in line


@pytest.mark.parametrize(
    ("rate", "batch", "predictions"), [("1e20", "8", "True"), ("1e28", "16", "False")]
)
def test_prompts_that_are_finite_but_too_large(tmp_path, capsys, rate, batch, predictions):
    out = tmp_path / "out"
    pairs = ["DATALOADER.TRAIN_X.BATCH_SIZE", batch, "OPTIM.LR", rate]
    pairs += ["TEST.PREDICTIONS", predictions]
    assert tiny.run(tmp_path, "CoOp", out, 1, extra=pairs) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: The logits are not finite")
    assert not (out / "results.json").exists() and not (out / "predictions.npz").exists()


def test_predict_prints_no_nan(tmp_path, capsys):
    out = tmp_path / "out"
    assert tiny.run(tmp_path, "CoOp", out, 1) == 0
    file = out / "prompt_learner" / "model.pth.tar-1"
    state = torch.load(file, weights_only=True)
    state["state_dict"]["ctx"] *= 1e30
    torch.save(state, file)
    capsys.readouterr()
    images = [str(p) for p in sorted((tmp_path / "tiny_colours").glob("test_*"))]
    for form in ("text", "csv", "json"):
        assert main(["predict", "--model-dir", str(out), *images, "--format", form]) == 1
        printed = capsys.readouterr()
        assert "nan" not in printed.out.lower()
        line = printed.err.strip().splitlines()[-1]
        assert f"the probabilities of '{images[0]}' are not finite" in line


def test_a_class_added_before_resuming(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert tiny.run(tmp_path, "CoOp", out, 1) == 0
    for names in ([*COLOURS, "river"], list(COLOURS)[:3], [*list(COLOURS)[:3], "river"]):
        colours = dict(zip(names, [*COLOURS.values(), (0, 0, 0)], strict=False))
        monkeypatch.setattr(tiny, "COLOURS", colours)
        assert tiny.run(tmp_path, "CoOp", out, 1) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "was begun otherwise (" in line and "class" in line
        assert "river" in line or "annual" in line
