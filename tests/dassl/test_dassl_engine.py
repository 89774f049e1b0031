"""Trainers: end to end, checkpoints, resume, evaluation, broken losses."""

import re

import pytest
import torch
from dassl.engine import TrainerX, build_trainer
from dassl.utils import LossNotFinite, UserError, save_checkpoint, setup_logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy_trainer import ToyPrompts

BATCH_LINE = re.compile(
    r"(epoch \[\d+/\d+\] batch \[\d+/\d+\] loss [\d.]+ \([\d.]+\) acc [\d.]+ \([\d.]+\)"
    r" eta [\d:]+)( \w+ [\d.]+ \([\d.]+\))* lr [\d.]+e-?\d+"
    r" time [\d.]+ \([\d.]+\) data [\d.]+ \([\d.]+\)$"
)


class Killed(Exception):
    pass


def kill_after(trainer, epoch, monkeypatch):
    """Train, and interrupt the trainer before the epoch with index `epoch`."""

    def before_epoch():
        if trainer.epoch == epoch:
            raise Killed

    monkeypatch.setattr(trainer, "before_epoch", before_epoch)
    with pytest.raises(Killed):
        trainer.train()


def weights(trainer):
    return {k: v.clone() for k, v in trainer.model.prompt_learner.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_public_style_trainer_end_to_end(make_cfg, tmp_path):
    cfg = make_cfg("TRAIN.CHECKPOINT_FREQ", 1)
    setup_logger(cfg.OUTPUT_DIR)
    trainer = build_trainer(cfg)
    before = weights(trainer)
    trainer.train()
    run = tmp_path / "run"

    assert not torch.equal(before["ctx"], weights(trainer)["ctx"])
    assert trainer.train_seconds > 0
    assert 0 <= trainer.test_results["accuracy"] <= 100
    assert set(trainer.test_results) == {"accuracy", "error_rate", "macro_f1"}

    folder = run / "prompt_learner"
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint",
        "model.pth.tar-1",
        "model.pth.tar-2",
    ]
    assert (folder / "checkpoint").read_text() == "model.pth.tar-2\n"
    checkpoint = torch.load(folder / "model.pth.tar-2", weights_only=True)
    assert checkpoint["epoch"] == 2
    assert {"state_dict", "optimizer", "scheduler", "val_result", "rng"} <= set(checkpoint)

    log = (run / "log.txt").read_text()
    lines = [line for line in log.splitlines() if line.startswith("epoch")]
    assert all(len(BATCH_LINE.match(line)[1]) <= 80 for line in lines), lines
    # 21 images: 5 whole batches in an epoch; every second one and the last are reported.
    batches = [line.split("batch ")[1].split(" ")[0] for line in lines]
    assert batches == ["[2/5]", "[4/5]", "[5/5]"] * 2
    assert "=> result\n* total: 12\n* correct: " in log
    assert "\r" not in log

    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    assert {"train/loss", "train/acc", "train/lr", "test/accuracy"} <= set(curves.Tags()["scalars"])
    assert [round(e.value, 6) for e in curves.Scalars("train/lr")[::3]] == [1e-5, 0.1]

    evaluated = build_trainer(cfg)
    evaluated.load_model(str(run), epoch=2)
    assert evaluated.test() == trainer.test_results["accuracy"]
    assert_same(weights(evaluated), weights(trainer))

    again = build_trainer(make_cfg("MODEL.INIT_WEIGHTS", str(folder / "model.pth.tar-2")))
    assert_same(weights(again), weights(trainer))


@pytest.mark.parametrize("workers", [0, 1])
def test_resume_is_exact(make_cfg, tmp_path, monkeypatch, workers):
    opts = ["OPTIM.MAX_EPOCH", 4, "TRAIN.CHECKPOINT_FREQ", 1, "TEST.NO_TEST", True]
    opts += ["DATALOADER.NUM_WORKERS", workers]
    whole = build_trainer(make_cfg(*opts, "OUTPUT_DIR", str(tmp_path / "whole")))
    whole.train()
    part = build_trainer(make_cfg(*opts))
    kill_after(part, 2, monkeypatch)
    rest = build_trainer(make_cfg(*opts, "SEED", 5))  # another seed: the checkpoint counts
    rest.train()
    assert rest.start_epoch == 2
    assert rest.train_seconds > 0
    assert_same(weights(rest), weights(whole))
    ends = [
        torch.load(tmp_path / d / "prompt_learner/model.pth.tar-4", weights_only=True)
        for d in ("run", "whole")
    ]
    assert ends[0]["scheduler"] == ends[1]["scheduler"]
    momenta = [end["optimizer"]["state"][0]["momentum_buffer"] for end in ends]
    assert torch.equal(*momenta)


def test_checkpoints_without_generator_states_resume(make_cfg, tmp_path, capsys):
    build_trainer(make_cfg()).train()
    file = tmp_path / "run/prompt_learner/model.pth.tar-2"
    checkpoint = torch.load(file, weights_only=True)
    del checkpoint["rng"], checkpoint["train_seconds"]
    torch.save(checkpoint, file)
    resumed = build_trainer(make_cfg("OPTIM.MAX_EPOCH", 3))
    resumed.train()
    assert "no states of the random number generators: new ones" in capsys.readouterr().out
    assert resumed.start_epoch == 2
    assert (file.parent / "model.pth.tar-3").exists()


@pytest.mark.parametrize("part", ["epoch", "optimizer", "scheduler", "rng", "train_seconds"])
def test_a_checkpoint_with_a_broken_part_is_one_sentence(make_cfg, tmp_path, part):
    build_trainer(make_cfg()).train()
    file = tmp_path / "run/prompt_learner/model.pth.tar-2"
    checkpoint = torch.load(file, weights_only=True)
    for value in ("nonsense", [3], None):
        torch.save(checkpoint | {part: value}, file)
        with pytest.raises(UserError, match="has a broken one .*: delete") as error:
            build_trainer(make_cfg("OPTIM.MAX_EPOCH", 3)).train()
        assert f"The checkpoint '{file}' lacks" in str(error.value)
        assert "\n" not in str(error.value)


def test_best_val_model_is_kept_and_remembered(make_cfg, tmp_path, monkeypatch, capsys):
    opts = ["TEST.FINAL_MODEL", "best_val", "OPTIM.MAX_EPOCH", 3]
    values = iter([50.0, 70.0, 60.0])
    real_test = ToyPrompts.test

    def test(self, split=None):
        accuracy = real_test(self, split)
        return next(values) if split == "val" else accuracy

    monkeypatch.setattr(ToyPrompts, "test", test)
    trainer = build_trainer(make_cfg(*opts))
    kill_after(trainer, 2, monkeypatch)
    trainer = build_trainer(make_cfg(*opts))
    trainer.train()
    best = torch.load(tmp_path / "run/prompt_learner/model-best.pth.tar", weights_only=True)
    assert best["val_result"] == 70.0
    assert best["epoch"] == 2
    assert torch.equal(weights(trainer)["ctx"], best["state_dict"]["ctx"])
    assert "Deploy the model with the best val performance" in capsys.readouterr().out


def test_models_saved_after_different_epochs_are_refused(make_cfg, tmp_path):
    trainer = build_trainer(make_cfg())
    trainer.register_model("other", torch.nn.Linear(1, 1))
    trainer.save_model(0, str(tmp_path))
    save_checkpoint({"state_dict": {}, "epoch": 2}, str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"different epochs \[1, 2\]"):
        trainer.resume_model_if_exist(str(tmp_path))


def test_a_checkpoint_of_another_shape_is_one_sentence(make_cfg, tmp_path):
    build_trainer(make_cfg()).save_model(0, str(tmp_path / "run"))
    other = build_trainer(make_cfg("TRAINER.TOYPROMPTS.N_CTX", 3))
    with pytest.raises(UserError, match="does not fit the model") as error:
        other.train()
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_names_the_file(make_cfg, tmp_path):
    trainer = build_trainer(make_cfg())
    with pytest.raises(UserError, match="prompt_learner/model.pth.tar-7"):
        TrainerX.load_model(trainer, str(tmp_path), epoch=7)
    trainer.save_model(0, str(tmp_path), val_result=12.5)
    TrainerX.load_model(trainer, str(tmp_path), epoch=1)


def test_a_bad_loss_stops_and_keeps_the_checkpoint(make_cfg, monkeypatch):
    trainer = build_trainer(make_cfg("TRAIN.CHECKPOINT_FREQ", 1))
    real = trainer.forward_backward

    def forward_backward(batch):
        if trainer.epoch == 1 and trainer.batch_idx == 2:
            trainer.model_backward_and_update(torch.tensor(float("nan"), requires_grad=True))
        return real(batch)

    monkeypatch.setattr(trainer, "forward_backward", forward_backward)
    with pytest.raises(LossNotFinite, match=r"\(nan\) in epoch 2, batch 3.*are kept") as error:
        trainer.train()
    assert isinstance(error.value, FloatingPointError)
    assert error.value.exit_code == 1
    assert build_trainer(trainer.cfg).resume_model_if_exist(trainer.output_dir) == 1


@pytest.mark.filterwarnings("ignore:.*GradScaler")
def test_the_mixed_precision_of_such_trainers_runs(make_cfg):
    trainer = build_trainer(make_cfg("TRAINER.TOYPROMPTS.PREC", "amp"))
    before = weights(trainer)
    trainer.train()
    assert not torch.equal(before["ctx"], weights(trainer)["ctx"])


UNKNOWN = {  # a name of each kind, and the nearest that there is
    "TRAINER.NAME": ("ToyPromts", "ToyPrompts"),
    "DATASET.NAME": ("ToyImage", "ToyImages"),
    "DATALOADER.TRAIN_X.SAMPLER": ("Random", "RandomSampler"),
    "INPUT.TRANSFORMS": (["random_flap"], "random_flip"),
    "INPUT.INTERPOLATION": ("cubic", "bicubic"),
    "OPTIM.NAME": ("adm", "adam"),
    "OPTIM.LR_SCHEDULER": ("cos", "cosine"),
    "OPTIM.WARMUP_TYPE": ("const", "constant"),
    "TEST.EVALUATOR": ("Classificaton", "Classification"),
    "TEST.FINAL_MODEL": ("best", "best_val"),
}


@pytest.mark.parametrize("key", UNKNOWN)
def test_an_unknown_name_suggests_the_nearest(make_cfg, key):
    name, nearest = UNKNOWN[key]
    with pytest.raises(UserError, match=f"Unknown .* did you mean {nearest}"):
        build_trainer(make_cfg(key, name))
