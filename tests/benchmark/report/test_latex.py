"""LaTeX tables for a paper."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from outcomes import (
    answer,
    classes,
    columns,
    comparisons,
    few_shot,
    metrics,
    outcome,
    rows,
    shown,
    transfer,
)

from benchmark.protocols import CROSS_DATASET
from benchmark.report.frame import frame
from benchmark.report.names import DATASETS
from benchmark.report.render import render
from benchmark.report.single import overview, report_runs

ELEVEN = list(DATASETS)[:11]


def base2new(**accuracies):
    """Return outcomes of methods on all eleven data sets, given accuracies on base and new."""
    return [
        outcome(trainer, seed, part, value, dataset, config="base2new")
        for trainer, values in accuracies.items()
        for dataset in ELEVEN
        for part, value in zip(("base", "new"), values, strict=True)
        for seed in (1, 2)
    ]


def latex(outcomes, all_published=False, deviations=False, **options) -> str:
    return render(rows(outcomes, **options), "latex", all_published, deviations)


def numbers(text: str, line: str) -> list[list[str]]:
    """Return the cells of each row whose first cell is `line`."""
    found = re.findall(rf"^{re.escape(line)} & (.*) \\\\$", text, re.MULTILINE)
    return [cells.split(" & ") for cells in found]


def test_base_to_new_is_one_table_of_the_average_and_eleven_blocks():
    three = base2new(CoOp=(80, 60), MaPLe=(81, 70), ALIGN=(82, 65))
    text = latex(three, beside_published=False)
    assert text.count(r"\begin{table*}") == 1 and text.count(r"\begin{tabular}") == 12
    assert "(a) Average over 11 data sets" in text and "(h) FGVC-Aircraft" in text
    assert numbers(text, "ALIGN")[0] == [
        r"\textbf{82.00}", r"\underline{65.00}", r"\underline{72.52}",
    ]  # fmt: skip
    assert numbers(text, "MaPLe")[0] == [
        r"\underline{81.00}", r"\textbf{70.00}", r"\textbf{75.10}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "interval, expected",
    [(False, ("standard deviations", 1.41)), (True, ("95\\% intervals", 12.71))],
)
def test_deviations_follow_the_means_on_demand(interval, expected):
    outcomes = [outcome("CoOp", 1, "base", 80), outcome("CoOp", 2, "base", 82)]
    outcomes += few_shot("CoOp", 4, (60, 62)) + few_shot("ALIGN", 4, (63, 65))
    targets = {"imagenet": 70.0, "dtd": 40.0}
    for seed in (1, 2):
        more = {name: value + 2 * seed for name, value in targets.items()}
        outcomes += transfer("CoOp", "imagenet", more, seed)
    words, spread = expected
    options = {"beside_published": False, "interval": interval}
    text = latex(outcomes, deviations=True, **options)
    assert rf"CoOp & 81.00$_{{\pm{spread}}}$ & --" in text
    assert rf"\textbf{{64.00}}$_{{\pm{spread}}}$" in text
    assert rf"73.00$_{{\pm{spread}}}$ & 43.00$_{{\pm{spread}}}$" in text
    assert text.count(rf"Means $\pm$ {words} over 2 seeds.") == 3
    plain = latex(outcomes, **options)
    assert "pm" not in plain and "81.00" in plain and "Means over 2 seeds." in plain


def test_published_numbers_are_marked_with_their_source():
    text = latex(base2new(CoOp=(80, 60)))
    assert numbers(text, r"CoOp$^\dagger$")[0] == [r"\textbf{82.69}"] + [
        r"\textbf{63.22}", r"\textbf{71.66}",
    ]  # fmt: skip
    assert r"$^\dagger$ Published (ViT-B/16): CoOp: PromptKD repository" in text
    assert r"TCP$^\dagger$" in latex(base2new(CoOp=(80, 60)), all_published=True)


def test_few_shot_and_each_transfer_protocol_are_one_table():
    outcomes = few_shot("ZeroshotCLIP", 0, (40,)) + few_shot("CoOp", 1, (50,), problem="failed: x")
    outcomes += few_shot("CoOp", 16, (60, 62)) + few_shot("ALIGN", 16, (63,))
    targets = dict.fromkeys(["imagenet", *CROSS_DATASET.targets["imagenet"]], 60.0)
    outcomes += transfer("CoOp", "imagenet", targets)
    text = latex(outcomes, beside_published=False)
    assert text.count(r"\begin{table*}") == 2
    assert numbers(text, "CLIP") == [["40.00", "--", "--"]]
    assert numbers(text, "ALIGN") == [["--", "--", "63.00$^*$"]]  # one of two seeds
    assert "% Not complete: CoOp, dtd, 1 shot, accuracy: failed: x [seed 1]" in text
    assert r"\rotatebox{90}{FGVC-Aircraft}" in text and r"\multicolumn{11}{c}{Target}" in text


def has_latex() -> bool:
    """Return True if LaTeX with the package booktabs, and a reader of PDF, are installed."""
    if not shutil.which("pdflatex") or not shutil.which("pdftotext"):
        return False
    return subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode == 0


def answered(folder, trainer, right, part, n=60):
    """Return the outcome of a run with predictions, of which the first `right` are right."""
    label = np.arange(n) % 60
    prediction = np.where(np.arange(n) < right, label, (label + 1) % 60)
    classes = {f"class_{i} & <{i}>": 100.0 * (i < right) for i in range(60)}
    more = {"per_class_accuracy": classes, "num_classes": 60, "calibration_error": 5.0}
    one = outcome(trainer, 1, part, 100 * right / n, "emoji_food", **more)
    return answer(one, folder / f"{trainer}{part}", columns(label, prediction))


def some(folder):
    """Return outcomes with predictions, on base and new classes."""
    rights = (("ZeroshotCLIP", 5), ("CoOp", 20), ("ALIGN", 45))
    return [
        answered(folder, trainer, right, part) for trainer, right in rights
        for part in ("base", "new")
    ]  # fmt: skip


def of_untrained(folder):
    """Return outcomes as of methods that train nothing, whose p needs one seed."""
    outcomes = some(folder)
    return [replace(one, result=one.result | {"num_params": 0}) for one in outcomes]


def recorded(folder):
    """Write the records of runs with predictions, and return their folders."""
    outcomes = some(folder)
    for one in outcomes:
        keys = {"trainer": one.run.trainer, "dataset": "Emoji_food", "seed": 1, "shots": 16}
        keys |= {"subsample_classes": one.run.subsample}
        (one.run.folder / "results.json").write_text(json.dumps(one.result | keys))
    return [one.run.folder for one in outcomes]


def protocols(folder):
    targets = dict.fromkeys(["imagenet", *CROSS_DATASET.targets["imagenet"]], 60.0)
    outcomes = base2new(CoOp=(80, 60), ALIGN=(82, 65)) + few_shot("A_1&^<[", 4, (50, 51))
    outcomes += few_shot("[B]", 4, (50, 51))
    return outcomes + transfer("ALIGN", "imagenet", targets)


KINDS = {
    "protocols": lambda folder: latex(protocols(folder)),
    "deviations": lambda folder: latex(protocols(folder), deviations=True),
    "comparisons": lambda folder: shown(
        comparisons(frame(of_untrained(folder)), "ZeroshotCLIP"), "latex", None
    ),
    "metrics": lambda folder: shown(metrics(frame(some(folder))), "latex", None),
    "classes": lambda folder: shown(classes(frame(some(folder))), "latex", None),
    "runs": lambda folder: report_runs(recorded(folder)[-2:], "latex"),
    "overview": lambda folder: overview(recorded(folder), "latex"),
}
READ = {
    "protocols": ["CoOp\u2020", "A 1&\u02c6<[", "[B]"],
    "deviations": ["\u00b1"],
    "comparisons": ["CLIP minus each other", "p < 0.001", "\u2212"],
    "metrics": ["\u2212ln p", "CLIP"],
    "classes": ["class 59 & <59>", "100.00"],
    "runs": [
        "class 59 & <59>",
        "ALIGN on Emoji food, base classes, seed 1",
        "\u2018runs/ALIGNbase\u2019",
    ],
    "overview": ["Single runs", "ALIGNbase", "75.00", "CLIP"],
}


def test_embedded_and_public_data_sets_have_labels_of_their_own():
    """They are two tables of one protocol and number of shots."""
    outcomes = [outcome("CoOp", 1, part, 50.0, dataset)
                for dataset in ("dtd", "emoji") for part in ("base", "new")]  # fmt: skip
    found = re.findall(r"\\label\{(.*?)\}", latex(outcomes))
    assert found == ["tab:base2new-16", "tab:base2new-16-2"]


@pytest.mark.skipif(not has_latex(), reason="LaTeX with booktabs or pdftotext is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_compile_and_read_right(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # TeX breaks no line in the name of a folder
    text = KINDS[kind](Path("runs"))
    document = rf"""\documentclass[twocolumn]{{article}}
\usepackage[margin=2cm]{{geometry}}
\usepackage{{booktabs,graphicx}}
\begin{{document}}
{text}
\end{{document}}
"""
    (tmp_path / "tables.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    for complaint in ("Overfull", "multiply defined"):
        assert complaint not in done.stdout, done.stdout[-3000:]
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(labels) == len(set(labels)) == text.count(r"\begin{table*}")
    read = subprocess.run(
        ["pdftotext", "-layout", "tables.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert "ZeroshotCLIP" not in read and "\u00a1" not in read and "\u00bf" not in read
    for words in READ[kind]:
        assert words in " ".join(read.split()), read[:3000]
