"""LaTeX tables for a paper."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from outcomes import (
    answer,
    classes,
    columns,
    few_shot,
    metrics,
    outcome,
    rows,
    shown,
)

from benchmark.report.frame import frame
from benchmark.report.names import DATASETS
from benchmark.report.render import in_style, render

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


def latex(outcomes, all_published=False, **options) -> str:
    return render(rows(outcomes, **options), "latex", all_published)


def lines(text: str) -> dict[str, list[list[str]]]:
    """Return the cells of each line of the tables, by the first that is not empty."""
    found = re.findall(r"^(?: & )?(.*) \\\\$", text, re.MULTILINE)
    by_name: dict[str, list[list[str]]] = {}
    for name, *cells in (line.split(" & ") for line in found):
        by_name.setdefault(name, []).append(cells)
    return by_name


def test_base_to_new_is_one_table_of_the_average_and_eleven_data_sets():
    three = base2new(CoOp=(80, 60), MaPLe=(81, 70), ALIGN=(82, 65))
    text = latex(three, beside_published=False)
    assert text.count(r"\begin{table*}") == text.count(r"\begin{tabular}") == 1
    assert text.count(r"\midrule") == 12 and "cline" not in text
    head, *_ = lines(text)["Method"]
    assert head[:4] == ["Base", "New", "H", "Data sets"] and "Training" in head
    assert lines(text)["Average over 11 data sets"] == [
        ["CoOp", "80.00", "60.00", "68.57", "11 of 11", *[""] * (len(head) - 4)]
    ]
    assert len(lines(text)["FGVC-Aircraft"]) == 1
    found = lines(text)["ALIGN"]
    assert len(found) == 12 and found[0][:3] == [r"\textbf{82.00}", "65.00", "72.52"]
    assert found[1][0] == r"\textbf{82.00 $\pm$ 0.00}"
    assert r"\caption{Base-to-new: accuracy (\%) on test images, 16 shots, seeds 1 2. Mean" in text


def test_published_numbers_do_not_compete_and_have_their_source():
    text = latex(base2new(CoOp=(80, 60)))
    assert lines(text)["CoOp, published"][0][:3] == ["82.69", "63.22", "71.66"]
    assert "Published (ViT-B/16): CoOp: PromptKD repository" in text
    assert "TCP, published &" in latex(base2new(CoOp=(80, 60)), all_published=True)


def test_what_would_make_a_number_silently_wrong_is_said():
    """Of one data set of two: other code, a mean that lacks a seed, a run that failed."""
    more = {"edited": ["a.py"]}
    outcomes = few_shot("CoOp", 1, (50,), "eurosat") + few_shot("CoOp", 1, (60, 62), **more)
    outcomes += few_shot("ALIGN", 1, (63,)) + few_shot("VPT", 1, (50,), problem="failed: x")
    text = latex(outcomes, beside_published=False)
    assert text.count(r"\begin{table*}") == 1
    assert "Other code than the present, at least in part: CoOp (a.py)." in text
    assert "over the seeds." in text and "One seed." not in text
    assert lines(text)["ALIGN"] == [["63.00 (1 of 2)"]] * 2
    assert "% Not complete: DTD: VPT, 1 shot: failed: x [seed 1]" in text
    assert "% Not complete: ALIGN, dtd, 1 shot: a mean over 1 of 2 seeds" in text


def has_latex() -> bool:
    """Return True if LaTeX with the package booktabs, and a reader of PDF, are installed."""
    if not shutil.which("pdflatex") or not shutil.which("pdftotext"):
        return False
    return subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode == 0


def answered(folder, trainer, right, part, n=50):
    """Return the outcome of a run with predictions, of which the first `right` are right."""
    label = np.arange(n) % 50
    prediction = np.where(np.arange(n) < right, label, (label + 1) % 50)
    classes = {f"class_{i} & <{i}>": 100.0 * (i < right) for i in range(50)}
    more = {"per_class_accuracy": classes, "num_classes": 50, "calibration_error": 5.0}
    one = outcome(trainer, 1, part, 100 * right / n, "emoji_food", **more)
    return answer(one, folder / f"{trainer}{part}", columns(label, prediction))


def some(folder):
    """Return outcomes with predictions, on base and new classes."""
    rights = (("ZeroshotCLIP", 5), ("CoOp", 20), ("ALIGN", 45))
    return [
        answered(folder, trainer, right, part) for trainer, right in rights
        for part in ("base", "new")
    ]  # fmt: skip


def test_embedded_and_public_data_sets_are_two_tables_with_labels_of_their_own():
    outcomes = [outcome("CoOp", 1, part, 50.0, dataset)
                for dataset in ("dtd", "eurosat", "emoji", "emoji_food")
                for part in ("base", "new")]  # fmt: skip
    label, again = re.findall(r"\\label\{(.*?)\}", latex(outcomes))
    assert label == "tab:base-to-new-accuracy-on-test-images-16-shots-seed-1"
    assert again == f"{label}-2"


@pytest.mark.skipif(not has_latex(), reason="LaTeX with booktabs or pdftotext is not installed")
def test_the_tables_compile_and_read_right(tmp_path):
    outcomes = base2new(CoOp=(80, 60), ALIGN=(82, 65)) + few_shot("A_1&^<[", 4, (50, 51))
    outcomes += few_shot("[B]", 4, (50, 51)) + few_shot("[B]", 4, (50, 51), "a_b")
    found = some(tmp_path)
    of_metrics = in_style([*metrics(found).values()][2:], "latex")
    texts = [latex(outcomes), of_metrics, shown(classes(frame(found)), "latex", None)]
    document = "\n".join([
        r"\documentclass{article}", r"\usepackage{booktabs,longtable}", r"\begin{document}", *texts,
        r"\end{document}",
    ])  # fmt: skip
    (tmp_path / "tables.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "multiply defined" not in done.stdout
    read = subprocess.run(
        ["pdftotext", "-layout", "tables.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
    ).stdout
    assert "ZeroshotCLIP" not in read and "\u00a1" not in read and "\u00bf" not in read
    for words in ("CoOp, published", "A 1&\u02c6<[", "[B]", "\u00b1", "\u2212ln p", "CLIP",
                  "class 49 & <49>"):  # fmt: skip
        assert words in " ".join(read.split()), read[:3000]
