"""Folders of log.txt files as the public repositories write them."""

import json

import outcomes
import pytest
from outcomes import few_shot, rows

from benchmark import protocols
from benchmark.__main__ import main
from benchmark.report import logs
from benchmark.report.tables import tables
from trainers.prompting.errors import UserError

BASE = "base2new/{part}/eurosat/shots_16/MaPLe/vit_b16_c2_ep5/seed{seed}"
FEW_SHOT = "caltech101/CoOp/rn50_ep50_{shots}shots/nctx16_cscFalse_ctpend/seed{seed}"
TRANSFER = "evaluation/MaPLe/vit_b16_cross_datasets_16shots/{dataset}/seed{seed}"
SOURCE = "imagenet/MaPLe/vit_b16_cross_datasets_16shots/seed{seed}"


def result(correct: int, total: int = 1000, split: str = "test") -> str:
    """Return the output of Dassl for a test, including its progress bar."""
    percent = 100 * correct / total
    return (
        f"Evaluate on the *{split}* set\n"
        "\r  0%|          | 0/10 [00:00<?, ?it/s]\r100%|##########| 10/10 [00:02<00:00]\n"
        f"=> result\n* total: {total:,}\n* correct: {correct:,}\n* accuracy: {percent:.1f}%\n"
        f"* error: {100 - percent:.1f}%\n* macro_f1: 40.0%\n"
    )


def epoch(number: int) -> str:
    return f"epoch [{number}/2][5/6]\ttime 0.6 (0.9)\tloss 3.6 (4.1)\tacc 18.7 (8.1)\tlr 1e-05\n"


def training(correct: int, end: str = "Finish training") -> str:
    tested = f"Deploy the last-epoch model\n{result(correct)}Elapsed: 0:15:09\n"
    return f"{epoch(1)}{epoch(2)}{end}\n{tested}"


def leave(folder, text: str, name: str = "log.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def read(spec) -> dict:
    """Return accuracy or problem by (protocol, data set, part, shots, seed, config)."""
    outcomes, _ = logs.read([str(spec)])
    found = {}
    for run, result, problem in ((o.run, o.result, o.problem) for o in outcomes):
        what = (run.protocol.name, run.dataset, run.part, run.shots, run.seed, run.config)
        found[what] = result["accuracy"] if result else problem.partition(":")[0]
    return found


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (result(947), 94.7),
        (result(2332, 2463), pytest.approx(94.6813, abs=1e-3)),  # finer than the log's 94.7
        ("=> result\n* accuracy: 81.2%\n", 81.2),
        (result(0), 0.0),
        (result(500) + result(600), 60.0),
        (training(700), 70.0),
        (training(700, end="Finished training"), 70.0),
        (epoch(1) + result(990, split="val") + training(700), 70.0),
        (training(700) + result(990, split="val"), 70.0),
        (epoch(1) + result(990, split="val"), None),
        (epoch(1) + result(990), None),  # some test between the epochs
        (epoch(1), None),
        ("", None),
    ],
)
def test_the_last_test_counts(log, expected):
    assert logs.accuracy(log) == expected


def test_the_layouts_of_the_public_scripts(tmp_path):
    leave(tmp_path / BASE.format(part="train_base", seed=1), training(800))
    leave(tmp_path / BASE.format(part="test_new", seed=1), result(700))
    leave(tmp_path / FEW_SHOT.format(shots=4, seed=2), training(900))
    leave(tmp_path / "ZeroshotCLIP/vit_b16/caltech101", result(600))
    leave(tmp_path / TRANSFER.format(dataset="dtd", seed=1), result(450))
    leave(tmp_path / TRANSFER.format(dataset="imagenet_a", seed=1), result(500))
    leave(tmp_path / SOURCE.format(seed=1), training(710))
    cross = "vit_b16_cross_datasets"
    assert read(tmp_path) == {
        ("base2new", "eurosat", "base", 16, 1, "vit_b16_c2_ep5"): 80.0,
        ("base2new", "eurosat", "new", 16, 1, "vit_b16_c2_ep5"): 70.0,
        ("few_shot", "caltech101", "all", 4, 2, "rn50_ep50/nctx16_cscFalse_ctpend"): 90.0,
        ("few_shot", "caltech101", "all", 0, 1, "vit_b16"): 60.0,
        ("cross_dataset", "dtd", "target", 16, 1, cross): 45.0,
        ("domain_generalization", "imagenet_a", "target", 16, 1, cross): 50.0,
        ("few_shot", "imagenet", "all", 16, 1, cross): 71.0,
        ("cross_dataset", "imagenet", "source", 16, 1, cross): 71.0,
        ("domain_generalization", "imagenet", "source", 16, 1, cross): 71.0,
    }
    inside = tmp_path / "base2new" / "train_base" / "eurosat"  # names may be in parent folders
    assert list(read(inside).values()) == [80.0]


def test_a_second_log_in_a_folder_wins_if_it_has_a_result(tmp_path):
    folder = tmp_path / FEW_SHOT.format(shots=1, seed=1)
    leave(folder, training(800))
    leave(folder, result(810), "log.txt-2023-01-02-03-04-05")
    leave(folder, epoch(1), "log.txt-2023-02-02-03-04-05")
    assert list(read(tmp_path).values()) == [81.0]


def test_methods_get_the_name_of_the_folder_or_a_given_one(tmp_path):
    folder = tmp_path / "their_logs"
    leave(folder / FEW_SHOT.format(shots=1, seed=1), training(800))

    def labels(spec):
        return {outcome.run.label for outcome in logs.read([spec])[0]}

    assert labels(str(folder)) == {"CoOp (their_logs)"}
    assert labels(f"PLOT={folder}") == {"PLOT"}  # its authors' scripts call it CoOp
    leave(folder / BASE.format(part="test_new", seed=1), result(700))
    assert labels(f"theirs={folder}") == {"CoOp (theirs)", "MaPLe (theirs)"}


def test_logs_are_shown_next_to_ours_with_what_is_missing(tmp_path, capsys):
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for seed, correct in ((1, 800), (2, 820)):
        leave(theirs / BASE.format(part="train_base", seed=seed), training(correct))
    leave(theirs / BASE.format(part="test_new", seed=1), result(800))
    leave(theirs / BASE.format(part="test_new", seed=2), "CUDA out of memory")
    leave(theirs / "elsewhere", result(100))
    outcomes.leave(ours, [outcomes.outcome("MaPLe", 1, "base", 90.0, "eurosat", backbone=None)])
    assert main(["report", str(ours), "--logs", f"published={theirs}"]) == 0
    told = capsys.readouterr()
    mine, others = [
        line.split() for line in told.out.splitlines() if line.startswith(("MaPLe", "pub"))
    ][:2]
    assert mine[:5] == ["MaPLe", "90.00", "(1", "of", "2)"]
    assert others[:4] == ["published", "81.00", "±", "1.41"]
    assert others[4:8] == ["80.00", "(1", "of", "2)"]
    assert "- published, new: unfinished:" in told.out and "log.txt has no final result" in told.out
    skipped = "skipped 1 log folders whose names do not say which run they are of, such as"
    assert told.err == f"{skipped} {theirs / 'elsewhere'}\n"


def test_logs_are_never_compared_with_the_paper(tmp_path):
    leave(tmp_path / FEW_SHOT.format(shots=1, seed=1), training(800))
    (table,) = tables(rows(logs.read([str(tmp_path)])[0]))[protocols.FEW_SHOT]
    assert len(table.lines) == 1


def test_two_logs_of_one_run(tmp_path):
    first, second = (tmp_path / n / FEW_SHOT.format(shots=1, seed=1) for n in ("OP_N1", "OP_N4"))
    leave(first, "")
    leave(second, training(800))
    assert list(read(tmp_path).values()) == [80.0]
    leave(first, training(800))
    assert list(read(tmp_path).values()) == [80.0]
    leave(first, training(801))
    with pytest.raises(UserError, match="the same run with different results.*NAME=FOLDER"):
        read(tmp_path)
    assert list(read(tmp_path / "OP_N1").values()) == [pytest.approx(80.1)]


def test_names_keep_methods_apart(tmp_path):
    first, second = tmp_path / "a/output", tmp_path / "b/output"
    leave(first / FEW_SHOT.format(shots=1, seed=1), training(800))
    leave(second / FEW_SHOT.format(shots=1, seed=1), training(700))
    with pytest.raises(UserError, match="the same run with different results"):
        logs.read([str(first), str(second)])
    outcomes, _ = logs.read([f"CoOp={first}", f"PLOT={second}"])
    ours = few_shot("CoOp", 1, (90,), "caltech101")
    named = {row.method: row.mean for row in rows(outcomes + ours).itertuples()}
    assert named == {"CoOp": 90.0, "CoOp (logs)": 80.0, "PLOT": 70.0}


def test_a_record_next_to_a_log_is_read_instead(tmp_path):
    """A trainer of this project left it in another checkout."""
    folder = tmp_path / FEW_SHOT.format(shots=4, seed=2)
    leave(folder, training(900))
    record = {"accuracy": 91.25, "split": "test", "calibration_error": 4.0}
    leave(folder, json.dumps(record), "results.json")
    ((outcome,), _) = logs.read([str(tmp_path)])
    assert outcome.result == record and outcome.run.trainer == "CoOp"
    leave(folder, "{", "results.json")
    ((outcome,), _) = logs.read([str(tmp_path)])
    assert outcome.problem.startswith("corrupt: ") and "results.json" in outcome.problem
