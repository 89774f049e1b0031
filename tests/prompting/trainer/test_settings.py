"""The settings stored in a checkpoint: runs with other settings are refused."""

import shutil
import zipfile
from types import SimpleNamespace

import pytest
import torch
from dassl.engine.base import TrainerBase
from dassl.utils import checkpoints
from tiny import arguments, results

import train
from recipe.settings import _defaults
from trainers.prompting import UserError, load_run
from trainers.prompting.backbones import weights_sha256
from trainers.prompting.checkpoint.identity import identity
from trainers.prompting.checkpoint.provenance import images_of
from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.method import METHODS


def run(root, *extra, output=None, flags=()) -> int:
    return train.run([*arguments(root, "ALIGN", output, 2, *flags), *extra])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = tmp_path_factory.mktemp("trained")
    assert run(root) == 0
    return root


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        (["TRAINER.ALIGN.BETA", "0.5"], "TRAINER.ALIGN.BETA is 0.5 here and 1.0 there"),
        (["OPTIM.LR", "0.02"], "OPTIM.LR is 0.02 here and 0.01 there"),
        (["DATASET.NUM_SHOTS", "2"], "DATASET.NUM_SHOTS is 2 here and 4 there"),
        (["SEED", "2"], "SEED is 2 here and 1 there"),
        (
            ["DATALOADER.TRAIN_X.BATCH_SIZE", "2"],
            "TRAIN_X.BATCH_SIZE is 2 here and 4 there",
        ),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(trained, capsys, extra, key):
    before = (trained / "output" / "MultiModalPromptLearner" / "model.pth.tar-2").read_bytes()
    assert run(trained, *extra) == 2
    said = capsys.readouterr().err
    assert "was begun otherwise (" in said and key in said
    after = (trained / "output" / "MultiModalPromptLearner" / "model.pth.tar-2").read_bytes()
    assert before == after


def test_settings_that_do_not_change_the_outcome_may_change(trained):
    extra = ["TRAIN.PRINT_FREQ", "7", "DATALOADER.NUM_WORKERS", "1", "TRAINER.COOP.N_CTX", "3"]
    assert run(trained, *extra, flags=["--shared"]) == 0
    assert results(trained / "output")["seed"] == 1


@pytest.mark.parametrize("key", ["N", "M", "BETA", "N_CTX"])
def test_prompts_are_evaluated_as_they_were_trained(trained, tmp_path, capsys, key):
    value = {"N": "1", "M": "1", "BETA": "0.5", "N_CTX": "1"}[key]
    flags = ["--eval-only", "--model-dir", str(trained / "output")]
    extra = [f"TRAINER.ALIGN.{key}", value]
    assert run(trained, *extra, output=tmp_path / "other", flags=flags) == 2
    assert f"trained otherwise (TRAINER.ALIGN.{key} is " in capsys.readouterr().err
    assert not (tmp_path / "other" / "results.json").exists()


def test_a_public_checkpoint_without_settings_loads(trained, tmp_path, capsys):
    folder = tmp_path / "public" / "MultiModalPromptLearner"
    folder.mkdir(parents=True)
    ours = torch.load(
        trained / "output" / "MultiModalPromptLearner" / "model.pth.tar-2", weights_only=False
    )
    public = {key: ours[key] for key in ("state_dict", "epoch", "optimizer", "val_result")}
    torch.save(public, folder / "model.pth.tar-2")
    flags = ["--eval-only", "--model-dir", str(tmp_path / "public")]
    assert run(trained, output=tmp_path / "other", flags=flags) == 0
    assert "has no settings" in capsys.readouterr().out


def test_prompts_that_are_not_numbers_are_not_evaluated(trained, tmp_path, capsys):
    source = trained / "output" / "MultiModalPromptLearner" / "model.pth.tar-2"
    checkpoint = torch.load(source, weights_only=False)
    checkpoint["state_dict"]["prompt_learner.ctx"].view(-1)[0] = float("nan")
    folder = tmp_path / "nan" / "MultiModalPromptLearner"
    folder.mkdir(parents=True)
    shutil.copy(trained / "output" / "run.json", tmp_path / "nan")
    torch.save(checkpoint, folder / "model.pth.tar-2")
    flags = ["--eval-only", "--model-dir", str(tmp_path / "nan")]
    assert run(trained, output=tmp_path / "other", flags=flags) == 2
    assert "holds numbers that are not finite" in capsys.readouterr().err


@pytest.mark.parametrize(("saved", "now"), [(16, None), (None, 16), (None, None)])
def test_a_checkout_that_sets_a_default_and_one_that_leaves_it_to_the_method(saved, now):
    """CoOp's cfg has N_CTX 16; here it is None, as methods share the key but not the default."""
    images, kind = images_of(SimpleNamespace(train_x=[]), False, []), METHODS["CoOp"]

    def with_contexts(number):
        cfg = _defaults()
        cfg.TRAINER.NAME, cfg.TRAINER.COOP.N_CTX = "CoOp", number
        return Saved(
            identity=identity(cfg, kind), epoch=1, classnames=["cat", "dog"], images=images
        )

    begun, now, other = map(with_contexts, (saved, now, 4))
    begun.check_loaded(now, kind)
    begun.check_resumed(now, "run")
    with pytest.raises(UserError, match=r"\(TRAINER.COOP.N_CTX is 4 here and 16 there\)"):
        begun.check_loaded(other, kind)
    with pytest.raises(UserError, match=r"\(TRAINER.COOP.N_CTX is 16 here and 4 there\)"):
        other.check_resumed(now, "run")


def test_prompts_are_used_with_the_weights_of_their_training(trained, tmp_path, capsys):
    own = weights_sha256("emoji")
    Saved(backbone_sha256=own).check_weights("emoji", own)
    Saved().check_weights("emoji", own)  # of other code
    with pytest.raises(UserError, match="other weights of 'emoji': SHA-256 22222222"):
        Saved(backbone_sha256="2" * 64).check_weights("emoji", own)
    out = tmp_path / "output"
    shutil.copytree(trained / "output", out)
    file = out / "MultiModalPromptLearner" / "model.pth.tar-2"
    torch.save(torch.load(file, weights_only=True) | {"backbone_sha256": "2" * 64}, file)
    with pytest.raises(UserError, match="other weights of .*: SHA-256 22222222"):
        load_run(out)
    other = tmp_path / "other"
    for place, flags in ((out, []), (other, ["--eval-only", "--model-dir", str(out)])):
        assert run(trained, output=place, flags=flags) == 2
        assert "other weights of '" in capsys.readouterr().err


def test_flipped_bits_are_found_without_dassl_lite(trained, tmp_path, capsys, monkeypatch):
    """The original Dassl does not compare the checksums of checkpoints."""
    shutil.copytree(trained / "output", tmp_path / "output")
    file = tmp_path / "output" / "MultiModalPromptLearner" / "model.pth.tar-2"
    with zipfile.ZipFile(file) as archive:
        (info,) = (i for i in archive.infolist() if i.filename.endswith("data/0"))
        content = archive.read(info)
    whole = bytearray(file.read_bytes())
    whole[whole.find(content) + len(content) // 2] ^= 64
    file.write_bytes(whole)
    unlooked = SimpleNamespace(is_zipfile=lambda path: False)
    monkeypatch.setattr(checkpoints, "zipfile", unlooked)
    monkeypatch.delattr(TrainerBase, "check_checkpoint")
    monkeypatch.delattr("dassl.utils.load_content")
    ways = {
        "evaluation": (["--eval-only", "--model-dir", str(tmp_path / "output")], []),
        "resume": (["--resume", str(tmp_path / "output")], []),
        "start": ([], ["MODEL.INIT_WEIGHTS", str(file)]),
    }
    for name, (flags, pairs) in ways.items():
        assert run(trained, *pairs, output=tmp_path / name, flags=flags) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"'{file}' is broken" in line and "data/0' has changed since" in line
    with pytest.raises(UserError, match="data/0' has changed since it was written"):
        load_run(tmp_path / "output")


def test_training_starts_from_bare_weights(trained, tmp_path, capsys):
    file = trained / "output" / "MultiModalPromptLearner" / "model.pth.tar-2"
    torch.save(torch.load(file, weights_only=True)["state_dict"], tmp_path / "bare.pt")
    pairs = ["MODEL.INIT_WEIGHTS", str(tmp_path / "bare.pt")]
    assert run(trained, *pairs, output=tmp_path / "from") == 0
    torch.save({"epoch": 3}, tmp_path / "bare.pt")
    assert run(trained, *pairs, output=tmp_path / "other") == 2
    assert "has 'epoch', which this method lacks" in capsys.readouterr().err
