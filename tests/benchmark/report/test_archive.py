"""An archive of runs: what it holds, and what `report` refuses of one that somebody hands on."""

import io
import json
import re
import socket
import tarfile
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from outcomes import COLUMNS, leave, outcome

from benchmark.__main__ import main
from benchmark.records import Outcome
from benchmark.report import received
from benchmark.report.archive import Cleaner
from trainers.prompting.record.metrics import metrics
from trainers.prompting.record.predictions import write_predictions

METRICS = metrics(COLUMNS, ["cat", "dog"]) | {"accuracy": 50.0, "macro_f1": 100 / 3}
RECORD = {
    "num_classes": 2, "num_test": 2, "git": "0123456789abcdef",
    "versions": {"torch": "2.9", "python": "3.12.1", "device": "cpu"},
}  # fmt: skip
CONFIG = {"OPTIM": {"LR": 0.002}, "TRAINER": {"COOP": {"N_CTX": 4}, "ALIGN": {"M": 3}}}


@pytest.fixture
def output(tmp_path):
    """Return an output with one method, whose records agree with its predictions."""
    output = tmp_path / "my output"
    leave(output, [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")])
    places = {"OUTPUT_DIR": str(output), "DATASET": {"ROOT": str(tmp_path)}}
    for file in output.rglob("results.json"):
        record = json.loads(file.read_text()) | METRICS | RECORD
        file.write_text(json.dumps(record | {"config": CONFIG | places}))
        write_predictions(file.parent, COLUMNS)
        command = f"$ {tmp_path}/train.py --root '{tmp_path}/my data' --output-dir '{file.parent}'"
        (file.parent / "console.txt").write_text(f"{command}\nEpoch 1\n")
    return output


@pytest.fixture
def report(tmp_path, capsys):
    """A function that reports outputs and returns the exit code, and what was printed."""

    def call(*words):
        code = main(["report", *map(str, words)])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def edited(output, **more):
    """Write values into the record on base classes of an output."""
    (file,) = output.glob("base2new/train_base/**/results.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | more))
    return file.parent


def packed(output, to):
    assert main(["archive", str(output), "--to", str(to)]) == 0
    return to


def test_an_archive_is_reported_like_the_runs(output, report, tmp_path, capsys):
    code, told, _ = report(output)
    assert code == 0, _
    assert main(["archive", str(output)]) == 0
    assert re.fullmatch(r".*/results.tar.xz: 2 runs, [\d.]+kB\n", capsys.readouterr().out)
    code, theirs, _ = report(output / "results.tar.xz")
    assert code == 0 and theirs.startswith(told)
    about = theirs.removeprefix(told)
    assert "Records that agree with their predictions: 2." in about
    assert "Settings of CoOp: N_CTX 4, LR 0.002." in about
    assert dict(line.split() for line in about.splitlines() if line.count("  ")) == {
        "Backbone": "ViT-B/16", "Commit": "0123456789ab", "PyTorch": "2.9", "Python": "3.12.1",
        "Device": "cpu", "Runs": "2",
    } | {"-" * 8: "-" * 12}  # fmt: skip
    assert not list(tmp_path.glob("align_*"))
    page = report(output / "results.tar.xz", "--format", "html")[1]
    assert "What the runs were made with</h2>" in page and "N_CTX 4" in page
    assert json.loads(report(output / "results.tar.xz", "--format", "json")[1])


def test_an_archive_names_no_place_and_holds_no_images(output, tmp_path):
    edited(output, joint_note=f"see '{tmp_path}/my notes' on {socket.gethostname()}/x")
    file = packed(output, tmp_path / "a.tar.xz")
    with tarfile.open(file) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}
    assert {name.rpartition("/")[2] for name in content} == {
        "results.json", "predictions.npz", "environment.json", "commands.txt",
    }  # fmt: skip
    for data in content.values():
        for place in (str(tmp_path), socket.gethostname()):
            assert place.encode() not in data
    first = content["commands.txt"].decode().splitlines()[0]
    assert first.startswith("DATA/train.py --root 'DATA/my data' --output-dir OUTPUT/base2new/")
    assert json.loads(content["environment.json"])["packages"]["numpy"] == np.__version__


@pytest.mark.parametrize("given, kept", [
    ("ViT-B/16", "ViT-B/16"),
    ("hf://user/run", "hf://user/run"),
    ("a photo of a {}, a/b", "a photo of a {}, a/b"),
    ("/home/jane doe/my clip.pt", "my clip.pt"),
    ("read '/home/jane/x.pt', then", "read 'x.pt', then"),
    ("--plugin=/home/jane/x.py", "--plugin=x.py"),
    ("~/weights/x.pt", "x.pt"),
    (r"C:\Users\jane\x.pt", "x.pt"),
    ("/data/out/run", "OUTPUT/run"),
    ("/data/output/run", "run"),
])  # fmt: skip
def test_of_paths_the_last_name_is_kept(tmp_path, given, kept):
    assert Cleaner(tmp_path.__class__("/data/out"))(given) == kept


@pytest.mark.parametrize("change, why", [
    ({"accuracy": 90.0}, "Accuracy (%) is 90 in the record and 50 by the predictions"),
    ({"macro_f1": 50.0}, "Macro-F1 (%) is 50 in the record and 33.33333333 by the predictions"),
    ({"calibration_error": 1.0}, "ECE (%) is 1 in the record and 50 by the predictions"),
    ({"accuracy": 50.00001}, "Accuracy (%) is 50.00001 in the record and 50 by the predictions"),
    ({"macro_f1": 33.33}, "Macro-F1 (%) is 33.33 in the record and 33.33333333 by the predict"),
    ({"per_class_accuracy": {"cat": 100.0, "dog": 60.0}}, "the accuracy of the class 'dog'"),
    ({"num_test": 3}, "the record is of 3 images, 2 are predicted"),
    ({"num_classes": 1}, "the record has 1 classes, the predictions others"),
    ({"num_classes": 3e7, "per_class_accuracy": None}, "the record has 30,000,000 classes, the"),
])  # fmt: skip
def test_an_edited_record_is_found(output, change, why):
    folder = edited(output, **change)
    record = json.loads((folder / "results.json").read_text())
    assert received.contradiction(Outcome(SimpleNamespace(folder=folder), record)).startswith(why)


def test_an_edited_record_is_reported(output, report, tmp_path):
    edited(output, accuracy=90.0)
    code, told, _ = report(packed(output, tmp_path / "a.tar.xz"))
    assert code == 0 and "contradicted: Accuracy (%) is 90 in the record and 50 by" in told
    assert "that agree with their predictions: 1." in told


def test_runs_without_predictions_are_counted_and_unfinished_ones_left_out(
    output, report, tmp_path, capsys
):
    (edited(output) / "predictions.npz").unlink()
    (output / "base2new/train_base/emoji/shots_16/CoOp/emoji/seed2").mkdir()
    file = packed(output, tmp_path / "a.tar.xz")
    assert "left out because they are not finished: 1" in capsys.readouterr().out
    told = report(file)[1]
    assert (
        "that agree with their predictions: 1." in told
        and "Without predictions, and so not checked: 1." in told
    )


def test_what_an_archive_leaves_out_is_said(output, report, tmp_path):
    joint = ("joint_label", "joint_prediction", "joint_probability", "base_probability",
             "joint_label_log_probability")  # fmt: skip
    for file in output.rglob("predictions.npz"):
        of_kind = {True: COLUMNS["label"], False: np.ones(2, "float32")}
        more = {name: of_kind[name in joint[:2]] for name in joint}
        write_predictions(file.parent, COLUMNS | more)
    told = report(packed(output, tmp_path / "a.tar.xz"), "--metrics")[1]
    assert "an archive has no predictions over base and new classes together; ask" in told


def test_archives_of_one_name_are_told_apart(output, report, tmp_path):
    files = [packed(output, tmp_path / place / "a.tar.xz") for place in ("x", "y")]
    told = report(*files)[1]
    assert "CoOp (a)" in told and "CoOp (a 2)" in told


def test_what_cannot_be_packed(output, tmp_path, capsys):
    assert main(["archive", str(output), "--to", "a.zip"]) == 2
    assert "--to is 'a.zip' but must end in .tar.xz" in capsys.readouterr().err
    assert main(["archive", str(tmp_path / "nowhere")]) == 2
    assert "no finished runs in" in capsys.readouterr().err
    (edited(output) / "predictions.npz").write_bytes(b"no zip")
    assert main(["archive", str(output)]) == 2
    assert "predictions.npz' cannot be read" in capsys.readouterr().err


RUN = "runs/base2new/train_base/dtd/shots_16/CoOp/base2new/seed1"
OWN = [
    (f"{RUN}/results.json", tarfile.LNKTYPE, "a link, a folder or a device"),
    (f"{RUN}/results.json", tarfile.SYMTYPE, "a link, a folder or a device"),
    (f"{RUN}/results.json", tarfile.CHRTYPE, "a link, a folder or a device"),
    ("runs/../../../results.json", tarfile.REGTYPE, "a path that leads out of it"),
    ("/runs/results.json", tarfile.REGTYPE, "a path that leads out of it"),
    (f"{RUN}/train.py", tarfile.REGTYPE, "no file of a run"),
    ("results.json", tarfile.REGTYPE, "no file of a run"),
    (".", tarfile.DIRTYPE, "a link, a folder or a device"),
    (".", tarfile.REGTYPE, "no file of a run"),
]


@pytest.mark.parametrize("name, kind, what", OWN)
def test_an_archive_with_something_else_is_refused(report, tmp_path, name, kind, what):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "/etc/passwd"
    with tarfile.open(tmp_path / "bad.tar.xz", "w:xz") as archive:
        archive.addfile(member)
    code, told, err = report(tmp_path / "bad.tar.xz")
    assert (code, told) == (2, "") and err.count("\n") == 1
    assert f"holds '{name}', {what}, so it was not read" in err
    assert [path.name for path in tmp_path.iterdir()] == ["bad.tar.xz"]


def add(file, name, data, **more):
    """Write an archive of one file."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in more.items():
        setattr(member, key, value)
    with tarfile.open(file, "w:xz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(data))


def test_an_archive_that_is_too_large_is_refused(report, tmp_path, monkeypatch):
    file, large = tmp_path / "bad.tar.xz", b"0" * 10_000
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as inside:
        inside.writestr("label.npy", large)
    monkeypatch.setattr(received, "MOST_OF_FILE", 5_000)
    monkeypatch.setattr(received, "MOST", 20_000)
    for name, data, more in (
        ("results.json", large, {}),
        ("predictions.npz", stream.getvalue(), {}),
        ("results.json", b"", {"pax_headers": {"comment": "0" * 10_000}}),
    ):
        add(file, f"{RUN}/{name}", data, **more)
        code, told, err = report(file)
        assert (code, told, err.count("\n")) == (2, "", 1)
        assert f"'{file}' is too large when unpacked" in err
    monkeypatch.setattr(received, "MEMBERS", 0)
    add(file, "commands.txt", b"")
    assert "is too large when unpacked" in report(file)[2]


def test_a_broken_archive_is_refused(output, report, tmp_path, capsys):
    whole = packed(output, tmp_path / "a.tar.xz").read_bytes()
    capsys.readouterr()
    file = tmp_path / "bad.tar.xz"
    for data in (b"", b"no archive", whole[:-200]):
        file.write_bytes(data)
        code, told, err = report(file)
        assert (code, told, err.count("\n")) == (2, "", 1)
        assert f"'{file}' is broken, or no archive of `python -m benchmark archive`" in err
