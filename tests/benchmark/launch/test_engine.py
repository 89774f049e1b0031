"""The launcher's list of runs: finished, unfinished, repeated and refused ones."""

from checkout import EMOJI, ONE, working

from benchmark.__main__ import main
from benchmark.protocols.base import Run


def test_runs_are_listed_without_comparing_each_with_all(tmp_path, capsys, monkeypatch):
    compared, equal = [], Run.__eq__
    monkeypatch.setattr(Run, "__eq__", lambda *two: compared.append(1) or equal(*two))
    words = ["base2new", "emoji", "--trainers", "CoOp", "--seeds", " ".join(map(str, range(200)))]
    assert main([*words, "--output", str(tmp_path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("# run: ") == 400 and len(compared) < 4_000


def test_an_unfinished_run_with_other_options_starts_anew(checkout):
    with working(checkout, *ONE, "OPTIM.MAX_EPOCH", "4"):
        pass
    checkout.base2new(*ONE)
    again = checkout.calls()[1]
    assert again["resume"] == "" and not again["checkpoint"]


def test_a_finished_run_with_other_options_is_refused(checkout):
    checkout.base2new(*ONE, "OPTIM.MAX_EPOCH", "4")
    refused = checkout.base2new(*ONE, "OPTIM.MAX_EPOCH", "5", code=2)
    assert "another run (OPTIM.MAX_EPOCH is 4 here and 5 there): choose" in refused.stderr
    assert refused.stderr.count("\n") == 1 and refused.stdout == ""
    checkout.base2new(*ONE, "OPTIM.MAX_EPOCH", "4")
    assert len(checkout.calls()) == 2


def test_corrupt_results_are_named_and_redone(checkout):
    words = ("--trainers", "CoOp", "--seeds", "1 2 3 4")
    checkout.base2new(*words)
    texts = "{", "[]", '{"accuracy": NaN}', '{"accuracy": null}'
    files = [checkout.folder("CoOp", seed, "test_new") / "results.json" for seed in (1, 2, 3, 4)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    told = checkout.protocol("report").stdout
    again = checkout.base2new(*words).stderr
    for file in files:
        assert f"- CoOp, new: corrupt: {file.relative_to(checkout.root)}" in told
        (line,) = (line for line in again.splitlines() if str(file) in line)
        assert "the run counts as unfinished" in line
    assert sorted(checkout.runs()[8:]) == [f"CoOp/{seed}/new" for seed in (1, 2, 3, 4)]


def test_an_evaluation_is_redone_with_its_training(checkout):
    """Until then, results of lost prompts are not shown."""
    checkout.base2new(*ONE)
    (checkout.folder("CoOp", 1) / "results.json").unlink()
    checkout.base2new(*ONE, fake={"CoOp/1/base": "error"}, code=1)
    told = checkout.protocol("report").stdout
    row = next(line for line in told.splitlines() if line.startswith("CoOp "))
    assert row.split() == ["CoOp", "failed", "unfinished", "-", "-", "-", "-"]
    failed = checkout.base2new(*ONE, fake={"CoOp/1/new": "silent"}, code=1)
    assert "- CoOp, new: failed: it ended without results.json" in failed.stdout
    assert checkout.runs()[3:] == ["CoOp/1/base", "CoOp/1/new"]


def test_results_of_another_beta_are_refused(checkout):
    words = ("--trainers", "ALIGN", "--seeds", "1", "--vary")
    checkout.base2new(*words, "TRAINER.ALIGN.BETA=0.5")
    folder = checkout.output / "base2new/train_base/emoji/shots_16/ALIGN"
    (folder / "emoji+TRAINER.ALIGN.BETA=0.5").rename(folder / "emoji+TRAINER.ALIGN.BETA=0.2")
    refused = checkout.base2new(*words, "TRAINER.ALIGN.BETA=0.2", code=2)
    assert "holds another run (ALIGN on emoji, BETA 0.5, seed 1, base)" in refused.stderr


def test_results_of_an_older_config_file_are_refused(checkout):
    checkout.protocol("cross_dataset", *EMOJI, "OPTIM.MAX_EPOCH", "8")
    (checkout.output / "transfer/emoji/shots_16/CoOp/emoji/seed1/results.json").unlink()
    done = checkout.protocol("cross_dataset", *EMOJI, "OPTIM.MAX_EPOCH", "8")
    assert "6 runs, 3 to do; " in done.stderr  # a repeated training repeats its targets
    config = checkout.root / "configs/trainers/CoOp/emoji.yaml"
    config.write_text("OPTIM:\n  MAX_EPOCH: 8\nTRAIN:\n  PRINT_FREQ: 7\n")
    checkout.protocol("domain_generalization", *EMOJI, "emoji_pixels")
    config.write_text("OPTIM:\n  MAX_EPOCH: 9\n")
    refused = checkout.protocol("domain_generalization", *EMOJI, "emoji_pixels", code=2)
    assert "another run (OPTIM.MAX_EPOCH is 8 here and 9 there)" in refused.stderr
    checkout.protocol("cross_dataset", *EMOJI, "OPTIM.MAX_EPOCH", "8")
    assert len(checkout.calls()) == 6 + 3 + 2
