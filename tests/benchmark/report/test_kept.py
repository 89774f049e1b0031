"""Keep what `report` prints in every format: a refactoring changes no digit of it.

`REPORT_KEEP=1 pytest` writes the file anew, after a change that is meant to be seen.
"""

import difflib
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from outcomes import few_shot, leave, outcome

from benchmark.__main__ import main
from benchmark.protocols.launches import write_launch
from trainers.prompting.record.predictions import write_predictions

KEPT = Path(__file__).with_name("kept.txt")
N = 24  # test images of each half
RIGHT = {  # of base and new images, with each seed
    "ZeroshotCLIP": [(8, 9)],
    "CoOp": [(15, 8), (17, 7)],
    "ALIGN": [(16, 14), (19, 13)],
}
SHOWN = [
    [],
    ["--interval", "--protocol", "few_shot", "--published", "off"],
    ["--format", "markdown", "--protocol", "base2new"],
    ["--format", "latex"],
    ["--format", "csv"],
    ["--format", "json", "--protocol", "few_shot"],
    ["--metrics", "--classes"],
    ["--metrics", "--format", "latex", "--protocol", "base2new", "--seeds", "1"],
    ["--metrics", "--format", "csv"],
    ["--compare", "ALIGN"],
    ["--compare", "ALIGN", "--metric", "joint_accuracy", "--format", "csv"],
]


def columns(part, right, shift):
    """Return predictions of which the first `right` are right, moved by `shift` images."""
    image = np.arange(N)
    label, hit = image % 4, (image + shift) % N < right
    prediction = np.where(hit, label, (label + 1) % 4)
    confidence, first = 0.3 + 0.7 * (image * 7 % 10) / 10, 4 * (part == "new")
    return {
        "image": [f"{part}{i:03}.png" for i in image],
        "label": label,
        "prediction": prediction,
        "top": prediction[:, None],
        "probability": confidence[:, None],
        "label_log_probability": np.log(np.where(hit, confidence, 0.1)),
        "joint_label": first + label,
        "joint_prediction": first + np.where(image % 5, prediction, (label + 4) % 8 - first),
        "joint_probability": confidence,
        "base_probability": (0.2 if part == "new" else 0.5) + 0.4 * (image * 3 % 7) / 7,
        "joint_label_log_probability": np.log(np.where(hit, confidence, 0.1)),
    }


def make(output):
    """Write runs on two data sets, of which one is missing, and two values of shots."""
    for name, by_seed in RIGHT.items():
        for dataset in ("dtd", "eurosat"):
            for seed, rights in enumerate(by_seed, 1):
                for part, right in zip(("base", "new"), rights, strict=True):
                    right += dataset == "dtd"
                    one = outcome(
                        name, seed, part, 100 * right / N, dataset, num_classes=4, num_test=N,
                        calibration_error=10.0 + seed, macro_f1=50.0 + right, train_steps=30,
                        negative_log_likelihood=1.5, peak_memory_mib=900.0 + right,
                        per_class_accuracy={f"class {i} <{part}>": 25.0 * i for i in range(4)},
                        ood={"sun397": {"auroc_mcm": 60.0 + seed, "fpr95_mcm": 70.0}},
                        zero_shot_accuracy=35.0, beyond=["llm"] if name == "ALIGN" else [],
                        train_seconds=60.0 * seed * len(name),
                    )  # fmt: skip
                    one.result["config"] = {"OPTIM": {"LR": 0.002}}
                    if (name, dataset, seed, part) != ("CoOp", "eurosat", 2, "new"):
                        leave(output, [one])
    for record in output.rglob("results.json"):
        part = "new" if "test_new" in record.parts else "base"
        name, seed = record.parts[-4], int(record.parent.name[4:])
        dataset = record.parts[-6]
        right = RIGHT[name][seed - 1][part == "new"] + (dataset == "dtd")
        write_predictions(record.parent, columns(part, right, 3 * seed + len(name)))
    failed = outcome("CoOp", 2, "new", 0.0, "eurosat").run
    failed = replace(failed, folder=output / failed.place)
    failed.folder.mkdir(parents=True)
    write_launch(failed, None, ())
    (failed.folder / "console.txt").write_text("$ train.py\n# failed: out of memory\n")
    leave(output, few_shot("CoOp", 1, (45.2, 47.1)) + few_shot("CoOp", 16, (63.0, 64.2)))
    leave(output, few_shot("ALIGN", 16, (69.4,), "ucf101"))


def test_no_digit_has_changed(tmp_path, capsys):
    make(tmp_path / "output")
    texts = []
    for flags in SHOWN:
        capsys.readouterr()
        assert main(["report", str(tmp_path / "output"), *flags]) == 0, flags
        said = capsys.readouterr()
        assert not said.err, flags
        texts.append(f"##### report {' '.join(flags)}\n{said.out}")
    text = re.sub(r"[ \t]+$", "", "\n".join(texts), flags=re.MULTILINE)
    if os.environ.get("REPORT_KEEP"):
        KEPT.write_text(text, encoding="utf-8")
    kept = KEPT.read_text(encoding="utf-8")
    differences = difflib.unified_diff(kept.splitlines(), text.splitlines(), lineterm="", n=0)
    assert text == kept, "\n".join([*differences][:40])
