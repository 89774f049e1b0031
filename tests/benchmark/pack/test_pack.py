"""Packing runs, reporting packs, and verifying that their numbers follow from predictions."""

import getpass
import io
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from packing import PREDICTIONS, RECORD, RUN, column, read, record
from paths import ROOT

from benchmark.__main__ import main
from benchmark.pack.pack import as_zip, without_place
from recipe.predictions import JOINT

EARLIER = ROOT / "tests" / "earlier" / "version_0_2"


def test_a_pack_is_verified_and_gives_the_tables_of_its_folder(earlier, capsys):
    assert main(["verify", str(earlier)]) == 0
    verified = capsys.readouterr().out
    assert main(["report", str(EARLIER), "--published", "off", "--interval"]) == 0
    assert capsys.readouterr().out.strip() in verified
    size = f"{earlier.stat().st_size / 1e6:.1f}"
    assert f"30 runs, {size} MB: all numbers follow from the predictions" in verified


def test_a_pack_is_the_same_each_time_and_names_no_machine_or_user(earlier, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(EARLIER, moved)
    assert main(["pack", str(moved), "--output", str(tmp_path / "again.zip")]) == 0
    assert (tmp_path / "again.zip").read_bytes() == earlier.read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["again.zip"]
    files = read(earlier)
    assert {Path(name).name for name in files} == {
        "manifest.json", "results.json", "predictions.npz"
    }  # fmt: skip
    words = ["/home", "/root", "/tmp", "user", str(ROOT), f"/{getpass.getuser()}"]
    if len(socket.gethostname()) > 3:
        words.append(socket.gethostname())
    for name, content in files.items():
        if name.endswith(".npz"):
            with np.load(io.BytesIO(content)) as arrays:
                content = b"".join("\n".join(arrays["image"]).encode() for _ in arrays)
        assert not [word for word in words if word.encode() in content], name
    config = json.loads(files[RECORD])["config"]
    assert config["OUTPUT_DIR"] == RUN and config["TRAINER"]["PLUGINS"] == ["anchored.py"]
    assert (
        config["OPTIM"]["LR"] == json.loads((EARLIER / RECORD).read_text())["config"]["OPTIM"]["LR"]
    )


VIEWS = [
    ["--format", "json"],
    ["--metrics"],
    ["--classes", "--format", "csv"],
    ["--compare", "ALIGN"],
]


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_a_pack_is_reported_as_its_folder(view, earlier, capsys):
    said = []
    for output in (EARLIER, earlier):
        assert main(["report", str(output), *view]) == 0
        said.append(capsys.readouterr())
    assert said[0] == said[1] and "ALIGN" in said[0].out


def test_with_several_outputs_each_method_names_its_origin(earlier, tmp_path, capsys):
    both = ["report", str(earlier), str(EARLIER)]
    assert main([*both, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    methods = [row["method"] for row in rows]
    assert len(rows) == 30
    assert methods[:2] == ["ZeroshotCLIP (results.zip)", "ZeroshotCLIP (version_0_2)"]
    assert {row["origin"] for row in rows} == {"results.zip", "version_0_2"}
    assert main([*both, "--compare", "ALIGN (results.zip)", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)["comparisons"]
    same = [one for one in found if one["other"] == "ALIGN (version_0_2)"]
    assert [one["difference"] for one in same] == [0, 0, 0] and len(found) == 3 * 29
    shutil.copy(earlier, tmp_path)
    assert main(["report", str(earlier), str(tmp_path / "results.zip")]) == 0
    assert f"ALIGN ({tmp_path / 'results.zip'})" in capsys.readouterr().out
    assert main([*both, str(tmp_path / "result.zip")]) == 2
    assert f"'{tmp_path}/result.zip' does not exist: check the path" in capsys.readouterr().err


def test_a_damaged_pack_is_not_reported(earlier, tmp_path, capsys):
    (tmp_path / "results.zip").write_bytes(earlier.read_bytes()[:-1])
    assert main(["report", str(tmp_path / "results.zip"), str(EARLIER)]) == 1
    said = capsys.readouterr()
    assert (
        "results.zip' is refused: it cannot be read (it is not a zip, or is cut off)" in said.err
        and not said.out
    )


TEXTS = {
    "/home/anna/data": "data",
    "/home/anna/data/": "data",
    "/data": "data",
    "~/data": "data",
    "~anna/data": "data",
    "../../anna/data": "data",
    "data/../../anna/images": "data/images",
    r"C:\Users\Anna Maria\data": "data",
    "C:/Users/anna/data": "data",
    r"\\server\anna\data": "data",
    "/home/Anna Maria/w.pt": "w.pt",
    "open_clip:ViT-B-32//home/anna/w.pt": "open_clip:ViT-B-32/w.pt",
    "open_clip:/home/anna/clip": "open_clip:clip",
    "ViT-B/16": "ViT-B/16",
    "openai/clip-vit-base-patch16": "openai/clip-vit-base-patch16",
    "open_clip:ViT-B-32/laion2b": "open_clip:ViT-B-32/laion2b",
    "a photo of a dog / cat": "a photo of a dog / cat",
    "sentences/emoji.json": "sentences/emoji.json",
    "": "",
}


@pytest.mark.parametrize("text", TEXTS)
def test_local_paths_are_reduced_to_their_last_name(text):
    assert without_place(text) == TEXTS[text]


def test_runs_that_are_not_complete_are_left_out_and_named(tmp_path, capsys):
    output, pack = tmp_path / "output", tmp_path / "new" / "results.zip"
    shutil.copytree(EARLIER / "base2new/test_new", output / "base2new/test_new")
    runs = output / "base2new/test_new/emoji/shots_2"
    (runs / "CoOp/emoji/seed1/predictions.npz").unlink()
    (runs / "TCP/emoji/seed1/results.json").unlink()
    path = runs / "VPT/emoji/seed1/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"accuracy": 99.0}))
    (runs / "UPT/emoji").rename(runs / "UPT/e:moji")
    with np.load(runs / "PLOT/emoji/seed1/predictions.npz") as found:
        arrays = dict(found)
    arrays["image"] = np.char.add("/home/anna/", arrays["image"])
    np.savez(runs / "PLOT/emoji/seed1/predictions.npz", **arrays)
    path = runs / "MaPLe/emoji/seed1/results.json"
    infinite = json.loads(path.read_text())
    infinite["config"]["OPTIM"]["LR"] = float("inf")
    path.write_text(json.dumps(infinite))
    assert main(["pack", str(output), "--output", str(pack)]) == 1
    said = capsys.readouterr().err
    for method, why in {
        "CoOp": "no predictions; repeat the run with TEST.PREDICTIONS True",
        "TCP": "unfinished: no results yet",
        "VPT": "predictions that do not match results.json",
        "UPT": "its folder name is not valid on every system",
        "PLOT": "its predictions contain a local path of an image: '/home/anna/",
    }.items():
        place = f"base2new/test_new/emoji/shots_2/{method}/e{':' * (method == 'UPT')}moji/seed1"
        assert f"left out: {place}: {why}" in said
    assert said.count("\n") == 5 and main(["verify", str(pack)]) == 0
    assert "10 runs, " in capsys.readouterr().out
    (name,) = [name for name in read(pack) if "/MaPLe/" in name and name.endswith("results.json")]
    assert json.loads(read(pack)[name])["config"]["OPTIM"]["LR"] == "inf"


def test_nothing_to_pack_is_one_sentence(tmp_path, capsys):
    assert main(["pack", str(tmp_path), "--output", str(tmp_path / "a.zip")]) == 2
    assert "contains no complete runs with predictions" in capsys.readouterr().err
    assert not (tmp_path / "a.zip").exists()


def test_more_files_than_a_zip_can_list_are_not_packed(few):
    with pytest.raises(ValueError, match="exceed the limits of a pack"):
        as_zip({str(number): b"" for number in range(2**16 + 1)})


def of_a_class(files):
    accuracies = json.loads(files[RECORD])["per_class_accuracy"]
    return record(per_class_accuracy=accuracies | {"animal bug": accuracies["animal bug"] + 0.001})(
        files
    )


FORGED = {
    "accuracy": (record(accuracy=31.6), "accuracy is 31.6 in its record, 31.578"),
    "last digits": (record(accuracy=31.5787), "accuracy is 31.5787 in its record, 31.578"),
    "macro_f1": (record(macro_f1=40.0), "macro_f1 is 40.0 in its record, "),
    "top5_accuracy": (record(top5_accuracy=99.0), "top5_accuracy is 99.0 in its record, "),
    "ECE": (record(calibration_error=0.5), "calibration_error is 0.5 in its record, "),
    "NLL": (record(negative_log_likelihood=1), "negative_log_likelihood is 1 in its record, "),
    "a class": (of_a_class, "per_class_accuracy, animal bug is "),
    "images": (record(num_test=210), "num_test is 210 in its record, 209 by its predictions"),
    "joint": (record(joint_accuracy=50.0), "joint_accuracy is 50.0 in its record, None by its"),
    "classes": (record(num_classes=3), "num_classes is 3 in its record, but its predictions"),
    "many": (record(num_classes=2**40), f"num_classes is {2**40} in its record"),
    "no number": (record(num_classes=None), "num_classes is None in its record"),
    "a label": (column("label", lambda a: np.roll(a, 1)), "accuracy is 31.578947"),
    "other images": (
        column("image", lambda a: np.char.add("x", a)),
        "its list of test images is not that of the manifest",
    ),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_number_that_does_not_follow_from_the_predictions_is_named(case, few, tmp_path, capsys):
    change, sentence = FORGED[case]
    (tmp_path / "forged.zip").write_bytes(as_zip(change(few)))
    assert main(["verify", str(tmp_path / "forged.zip")]) == 1
    said = capsys.readouterr().out
    assert f"MISMATCH {RUN}: {sentence}" in said
    assert "1 of the runs have numbers that do not follow from their predictions" in said
    if case == "accuracy":  # tables show the recomputed number
        assert "31.58" in said and "31.60" not in said


@pytest.mark.parametrize("recorded, code", [(100 * 50 / 209, 0), (24.0, 1)])
def test_the_joint_accuracy_is_verified_too(recorded, code, few, tmp_path, capsys):
    joint = {name: np.full(209, 0.5, "f4") for name, (kind, _) in JOINT.items() if kind == "f"}
    joint |= {"joint_label": np.zeros(209, "i4"), "joint_prediction": np.ones(209, "i4")}
    joint["joint_prediction"][:50] = 0
    joint["scaled_probability"] = joint["joint_probability"]
    stream = io.BytesIO()
    with np.load(io.BytesIO(few[PREDICTIONS])) as found:
        np.savez_compressed(stream, **found, **joint)
    files = record(joint_accuracy=recorded)(few | {PREDICTIONS: stream.getvalue()})
    (tmp_path / "joint.zip").write_bytes(as_zip(files))
    assert main(["verify", str(tmp_path / "joint.zip")]) == code
    wrong = "joint_accuracy is 24.0 in its record, 23.92" in capsys.readouterr().out
    assert wrong == bool(code)


def test_repeated_class_names_are_not_compared(few, tmp_path, capsys):
    accuracies = json.loads(few[RECORD])["per_class_accuracy"]
    accuracies.pop("animal bug")
    files = record(per_class_accuracy=accuracies)(few)
    (tmp_path / "results.zip").write_bytes(as_zip(files))
    assert main(["verify", str(tmp_path / "results.zip")]) == 0
