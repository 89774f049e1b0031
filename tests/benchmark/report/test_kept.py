"""Keep what `report` prints in every format: a refactoring changes no digit of it.

`REPORT_KEEP=1 pytest` writes the file anew, after a change that is meant to be seen.
"""

import difflib
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from outcomes import few_shot, leave, outcome, ran, transfer

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
    ["--metrics", "--interval", "--protocol", "base2new"],
]
MEASURED = [  # shown of the runs of `make_measured`
    [],
    ["--interval", "--format", "latex"],
    ["--interval", "--format", "csv"],
    ["--published", "all", "--format", "markdown", "--protocol", "domain_generalization"],
    ["--metrics", "--protocol", "domain_generalization"],
    ["--metrics", "--interval", "--protocol", "few_shot"],
    ["--metrics", "--format", "csv"],
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
                    one.result["run"] = ran(OPTIM={"LR": 0.002})
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
    write_launch(failed)
    (failed.folder / "console.txt").write_text("$ train.py\n# failed: out of memory\n")
    leave(output, few_shot("CoOp", 1, (45.2, 47.1)) + few_shot("CoOp", 16, (63.0, 64.2)))
    leave(output, few_shot("ALIGN", 16, (69.4,), "ucf101"))


def make_measured(output):
    """Write runs with several metrics, averages over data sets and shots, targets, and attacks."""

    def measured(seed, at):
        return {"macro_f1": at - seed, "top5_accuracy": 90.0 + seed, "calibration_error": at / 9,
                "calibration_error_scaled": at / 10, "negative_log_likelihood": 60 / at,
                "temperature": 20.0 if at == 62 else 1.1, "num_test": 4000, "num_classes": 50,
                "peak_memory_mib": 800.0, "train_steps": 50}  # fmt: skip

    for dataset, at in (("dtd", 50.0), ("eurosat", 60.0)):
        for shots in (4, 16):
            for name, more in (("CoOp", 0), ("ALIGN", 2)):
                for seed in (1, 2, 3):
                    if (name, dataset, shots, seed) == ("CoOp", "eurosat", 16, 3):
                        continue  # an average that lacks a seed
                    right = at + more + shots / 4 + seed
                    keys = measured(seed, at + more) | {"beyond": ["llm"] * (name == "ALIGN")}
                    if (name, shots) == ("ALIGN", 4):
                        keys |= {"clean_accuracy": right + 1, "robust_accuracy": at / 2 + seed}
                        keys |= {"attack": {"text": "pgd 1/255", "eps": 1.0, "images": 64}}
                    one = outcome(
                        name, seed, "all", right, dataset, protocol="few_shot", shots=shots, **keys
                    )
                    leave(output, [one])
        zero = {"protocol": "few_shot", "shots": 0, "num_params": 0}
        leave(output, [outcome("ZeroshotCLIP", 1, "all", at - 9, dataset, **zero, macro_f1=41.5)])
    targets = ["imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"]
    for name, at in (("CoOp", 60.0), ("ALIGN", 61.5)):
        for seed in (1, 2):
            keys = measured(seed, at) | {"protocol": "domain_generalization", "seed": seed}
            rights = {key: at - 3 * i + seed for i, key in enumerate(["imagenet", *targets])}
            if (name, seed) == ("CoOp", 2):
                del rights["imagenet_r"]
            leave(output, transfer(name, "imagenet", rights, **keys))


def test_no_digit_has_changed(tmp_path, capsys):
    make(tmp_path / "output")
    make_measured(tmp_path / "measured")
    texts = []
    shown = [("output", flags) for flags in SHOWN] + [("measured", flags) for flags in MEASURED]
    for folder, flags in shown:
        capsys.readouterr()
        assert main(["report", str(tmp_path / folder), *flags]) == 0, flags
        said = capsys.readouterr()
        assert not said.err, flags
        texts.append(f"##### report {' '.join(flags)}\n{said.out}")
    text = re.sub(r"[ \t]+$", "", "\n".join(texts), flags=re.MULTILINE)
    if os.environ.get("REPORT_KEEP"):
        KEPT.write_text(text, encoding="utf-8")
    kept = KEPT.read_text(encoding="utf-8")
    differences = difflib.unified_diff(kept.splitlines(), text.splitlines(), lineterm="", n=0)
    assert text == kept, "\n".join([*differences][:40])
