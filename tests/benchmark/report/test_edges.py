"""Tests of `report` where a number is at its limit, or a line is apart from the others."""

import base64
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from outcomes import base2new, few_shot, outcome

from benchmark.report.single import report_runs

SVG = re.compile("svg.xml;base64,\\s*([A-Za-z0-9+/=]+)")
OTHER_CLIP = "another CLIP or other test images"


def test_methods_on_another_clip_are_named_and_not_compared(answered, reported):
    outcomes = base2new(answered, "ALIGN", [30, 31, 30], [20] * 3)
    outcomes += base2new(answered, "CoOp", [20, 22, 20], [20] * 3)
    other = base2new(answered, "VPT", [20, 22, 20], [20] * 3, backbone="RN50")
    said = reported(outcomes + other, "--compare", "ALIGN, backbone ViT-B/16")
    assert f"Not complete:\n- VPT, backbone RN50: {OTHER_CLIP}" in said
    assert re.search(r"\nCoOp, backbone ViT-B/16 +\+2", said) and "\nVPT" not in said
    alone = outcomes[:6] + other
    refused = reported(alone, "--compare", "ALIGN, backbone ViT-B/16", status=2)
    assert f"--compare: VPT, backbone RN50: {OTHER_CLIP}" in refused


def test_code_that_was_edited_after_any_run_of_a_line_is_named(reported):
    outcomes = []
    for seed, edited in ((1, ["a.py"]), (2, ["b.py", "a.py"]), (3, [])):
        for dataset in ("dtd", "eurosat"):
            (one,) = few_shot("ALIGN", 4, (50.0,), dataset, edited=edited)
            folder = one.run.folder.with_name(f"seed{seed}")
            outcomes.append(replace(one, run=replace(one.run, seed=seed, folder=folder)))
    said = reported(outcomes)
    assert said.count(": ALIGN (a.py, b.py).") == 3  # of each table, and of the average


def test_the_smallest_class_is_named_where_it_lacks_shots(reported):
    for least, said in ((4, ""), (3, "3 training images, not all"), (1, "1 training image, not")):
        text = reported(few_shot("CoOp", 4, (50.0,), training_images={"least": least, "most": 4}))
        assert ("The smallest class has" in text) == bool(said) and said in text


def test_a_table_is_split_where_it_is_wider_than_a_line(reported):
    """A line has 120 characters; the first column is repeated."""
    for length, parts, width in ((29, 1, 120), (30, 2, 106)):
        outcomes = [outcome("A" * length, seed, part, 50.0 + seed, num_params=12)
                    for part in ("base", "new") for seed in (1, 2)]  # fmt: skip
        rows = [line for line in reported(outcomes).splitlines() if line.startswith("A" * length)]
        assert (len(rows), max(map(len, rows))) == (parts, width)


@pytest.mark.parametrize("form", ["csv", "json"])
def test_files_have_means_spreads_counts_and_costs(reported, form):
    outcomes = [outcome("CoOp", seed, part, value + 2 * seed, train_steps=50, peak_memory_mib=1536)
                for part, value in (("base", 60), ("new", 40)) for seed in (1, 2)]  # fmt: skip
    said = reported(outcomes, "--format", form, "--published", "off")
    if form == "csv":
        head, line = (row.split(",") for row in said.splitlines())
        found = dict(zip(head, line, strict=True))
        assert found["seeds"] == "1; 2"
    else:
        (found,) = json.loads(said)["rows"]
        assert found["seeds"] == [1, 2]
    wanted = {"base_mean": 63, "base_std": 2**0.5, "base_n": 2, "new_mean": 43, "new_n": 2}
    wanted |= {"h_mean": 2 * 63 * 43 / 106, "num_params": 10, "train_seconds": 60}
    wanted |= {"step_seconds": 1.2, "peak_memory_mib": 1536}
    assert {key: float(found[key]) for key in wanted} == pytest.approx(wanted)
    of_seeds = [2 * b * n / (b + n) for b, n in ((62, 42), (64, 44))]
    assert float(found["h_std"]) == pytest.approx((of_seeds[1] - of_seeds[0]) / 2**0.5)


def test_four_rivals_and_zero_shot_clip_are_named(answered, reported):
    """p counts all other lines: 0.012 for each is too much for one of six, not for one of two."""
    names = ["CoOp", "VPT", "MaPLe", "TCP", "UPT"]
    outcomes = [answered(name, seed, "all", right, protocol="few_shot")
                for name, right in [("ALIGN", 30), *((name, 24) for name in names)]
                for seed in (1, 2, 3)]  # fmt: skip
    zero = answered("ZeroshotCLIP", 1, "all", 10, protocol="few_shot", shots=0, num_params=0)
    first, *_ = reported([*outcomes, zero]).splitlines()
    level = "not told apart from CoOp (60.0), VPT (60.0), MaPLe (60.0) and UPT (60.0). Zero-shot"
    assert f"ALIGN has the highest accuracy, 75.0; {level} CLIP has 25.0, 50.0 [" in first
    assert first.endswith("] lower.") and "above" not in first
    first, *_ = reported([*outcomes[:6], zero]).splitlines()
    assert "75.0; 15.0 [3.4, 26.6] above CoOp (60.0). Zero-shot CLIP has 25.0, 50.0 [" in first


def test_four_rivals_under_attack_are_named(reported):
    outcomes = []
    for i, name in enumerate(["ALIGN", "CoOp", "VPT", "MaPLe", "TCP", "UPT"]):
        facts = {"text": "pgd 4/255, 100 steps of 0.25, 64 images"}
        outcomes += few_shot(name, 4, (60.0,), attack=facts, robust_accuracy=40.0 - i)
    first, *_ = reported(outcomes).splitlines()
    assert "ALIGN has the highest robust accuracy, 40.0, before CoOp (39.0), VPT (38.0), " in first
    assert first.endswith("MaPLe (37.0) and TCP (36.0); no difference is tested.")


def test_tables_and_lines_are_in_the_order_of_papers(reported):
    """Known data sets first, those of the repository last; settings by their numbers."""
    outcomes = [one for name in ("emoji", "aaa", "ucf101", "dtd", "zzz") for shots in (16, 4)
                for one in few_shot("CoOp", shots, (50.0,), name)]  # fmt: skip
    said = reported(outcomes, "--published", "off")
    titles = re.findall(r"^Few-shot on (\w+):", said, re.MULTILINE)
    assert titles == ["DTD", "UCF101", "aaa", "zzz", "emoji"]
    assert re.search(r"\nMethod +4 shots +16 shots\n", said)
    assert [record["shots"] for record in json.loads(reported(outcomes, "--format", "json"))["rows"]
            ][:2] == [4, 16]  # fmt: skip
    settings = [(), *(("TRAINER.ALIGN.BETA", str(beta)) for beta in (2, 0.5, 10))]
    outcomes = [outcome("ALIGN", 1, part, 50.0, opts=opts)
                for opts in settings for part in ("base", "new")]  # fmt: skip
    outcomes += [outcome("CoOp", 1, part, 50.0) for part in ("base", "new")]
    names = re.findall(r"^((?:ALIGN|CoOp)\S*(?: BETA \S+)?)  ", reported(outcomes), re.MULTILINE)
    assert names == ["CoOp", "ALIGN", "ALIGN, BETA 0.5", "ALIGN, BETA 2", "ALIGN, BETA 10"]


def test_seeds_with_equal_losses_are_named(reported):
    outcomes = few_shot("CoOp", 4, (50.0, 51.0, 52.0), losses=[1.0, 0.5])
    outcomes[2].result["losses"] = [1.0, 0.4]
    assert "as of one training: CoOp (seeds 1 2)." in reported(outcomes)
    outcomes[1].result["losses"] = [1.0, 0.3]
    assert "as of one training" not in reported(outcomes)
    without = few_shot("CoOp", 4, (50.0, 51.0))  # of which nothing is known
    assert "as of one training" not in reported(without)


def test_chance_is_that_of_each_table(reported):
    """Runs of one method in other protocols, and of other methods, have other classes."""
    outcomes = few_shot("CoOp", 4, (50.0, 52.0), num_classes=10)
    outcomes += [outcome("CoOp", 1, part, 50.0, num_classes=classes)
                 for part, classes in (("base", 5), ("new", 4))]  # fmt: skip
    outcomes += few_shot("ALIGN", 4, (40.0,), problem="failed: x")
    said = reported(outcomes)
    second, first = [line for line in said.splitlines() if "Chance is" in line]
    assert first.startswith("Base-to-new") and first.endswith("Chance is 22.2.")  # H of 20 and 25
    assert second.startswith("Few-shot") and second.endswith("Chance is 10.0.")


def test_splits_are_compared_on_one_data_set(reported):
    outcomes = []
    for dataset, split in (("dtd", "test"), ("eurosat", "val")):
        for name in ("CoOp", "ALIGN"):
            outcomes += few_shot(name, 4, (50.0,), dataset, split=split)
    said = reported(outcomes, "--published", "off")
    assert ", split" not in said
    assert "accuracy (%) on test images" in said and "accuracy (%) on val images" in said
    outcomes[0].result["split"] = "val"
    assert "\nCoOp, split val  " in reported(outcomes, "--published", "off")


def test_clips_are_compared_on_all_data_sets_of_an_average(reported):
    """Runs with other CLIPs share no average."""
    outcomes = few_shot("CoOp", 4, (50.0,), "dtd") + few_shot("CoOp", 4, (60.0,), "eurosat")
    said = reported(outcomes, "--published", "off")
    assert "average over 2 data sets" in said and "backbone" not in said
    outcomes[1].result["backbone"] = "RN50"
    said = reported(outcomes, "--published", "off")
    assert said.count("\nCoOp, backbone RN50  ") == said.count("\nCoOp, backbone ViT-B/16  ") == 2
    assert said.count("(1 of 2)") == 2  # each of the averages lacks a data set


def test_each_config_of_a_method_has_its_published_numbers_below_it(reported):
    outcomes = few_shot("CoOp", 16, (60.0,), config="a") + few_shot("CoOp", 16, (61.0,), config="b")
    said = reported(outcomes)
    for name, mean in (("CoOp (a)", 60), ("CoOp (b)", 61)):
        found = re.findall(rf"^{re.escape(name)}(.*?)  +([-+.\d]+)$", said, re.MULTILINE)
        assert [what for what, _ in found] == ["", ", published", ", difference"]
        ours, theirs, apart = (float(number) for _, number in found)
        assert ours == mean and apart == pytest.approx(ours - theirs)


def test_marks_that_turn_a_line_around_are_escaped(answered, reported):
    """In tables and pictures, from the names of methods, data sets, classes and precisions."""
    mark = "\u202e"
    more = {"per_class_accuracy": dict.fromkeys([f"a{mark}", "b", "c"], 50.0), "num_classes": 3}
    outcomes = [
        answered(f"Co{mark}Op", seed, "all", 30, dataset=f"se{mark}t", protocol="few_shot",
                 precision=f"fp{seed}{mark}", **more)
        for seed in (1, 2)
    ]  # fmt: skip
    single = str(outcomes[0].run.folder)
    said = [reported(outcomes), reported(outcomes, "--format", "html", "--metrics", "--classes")]
    said += [report_runs([Path(single)], "html")]
    said += [base64.b64decode(svg).decode() for page in said for svg in SVG.findall(page)]
    assert len(said) > 6 and "Co\\u202eOp" in said[0]
    assert not [text for text in said if mark in text or "&#8238;" in text]
