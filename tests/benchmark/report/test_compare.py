"""Differences between a method and all others, from the predictions of runs."""

import csv
import io
import json
import zipfile
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from outcomes import base2new, columns, comparisons, few_shot, lines, metrics, outcome, ran, shown

from benchmark.records import flaw
from benchmark.report.frame import frame
from benchmark.report.names import motif
from benchmark.report.paired import holm
from trainers.prompting.embedded import IMAGES
from trainers.prompting.record.predictions import NAME, write_predictions


def tables(outcomes, method="ALIGN"):
    (found,) = comparisons(frame(outcomes), method).tables().values()
    return found


def test_base_to_new_has_a_line_for_each_other_method(answered):
    outcomes = base2new(answered, "ALIGN", [30] * 3, [20] * 3)
    outcomes += base2new(answered, "CoOp", [24] * 3, [20] * 3)
    outcomes += base2new(answered, "ZeroshotCLIP", [10], [10])
    (table,) = tables(outcomes)
    assert table.title == (
        "Base-to-new on emoji: ALIGN minus each other on test images, 16 shots, seeds 1 2 3"
    )
    assert table.head == ["Method", "Base", "New", "H"]
    found = lines(table)
    assert list(found) == ["ZeroshotCLIP", "CoOp"] and not table.problems
    base, new, h = found["CoOp"]
    assert base == "+15.00 [+3.43, +26.57] p 0.012"  # the t interval of 6 ones and 34 zeros
    assert new == "equal"
    assert h.startswith(f"{2 * 75 * 50 / 125 - 2 * 60 * 50 / 110:+.2f} [")
    assert found["ZeroshotCLIP"][0].endswith("p < 0.001")


def test_the_method_that_lacks_a_seed_is_blamed_once(answered):
    outcomes = base2new(answered, "ALIGN", [30], [20])
    for other in ("CoOp", "MaPLe"):
        outcomes += base2new(answered, other, [28, 27], [20, 20])
    (table,) = tables(outcomes)
    assert table.problems == [
        f"ALIGN, emoji, {columns}: 1 of 2 seeds" for columns in ("Base", "New", "Base, New")
    ]
    assert all(line[1].text.endswith("] (one seed, 2 images differ)") for line in table.lines)


def test_one_seed_has_no_p_where_a_method_trains(answered):
    """Answers to images say nothing about other trainings."""
    outcomes = [answered("ALIGN", 1, "all", 40, protocol="few_shot")]
    outcomes += [answered("CoOp", 1, "all", 4, protocol="few_shot")]
    untrained = {"protocol": "few_shot", "num_params": 0, "shots": 0}
    outcomes += [answered("ZeroshotCLIP", 1, "all", 10, **untrained)]
    outcomes += [answered("StatA", 1, "all", 30, **untrained)]
    (table,) = tables(outcomes)
    texts = {name: text for name, (*_, text) in lines(table).items()}
    assert texts.keys() == {"ZeroshotCLIP", "StatA", "CoOp"}
    assert all(text.endswith("] (one seed)") for text in texts.values())
    assert "methods that depend on it have no p" in " ".join(table.caption)
    (table,) = tables(outcomes, "StatA")
    texts = {name: " ".join(cells) for name, cells in lines(table).items()}
    assert "] p < 0.001 (one seed)" in texts["ZeroshotCLIP"]
    assert "] (one seed)" in texts["CoOp"]


@pytest.mark.parametrize("seeds", [2, 3])
def test_two_seeds_are_called_too_few(answered, seeds):
    outcomes = base2new(answered, "ALIGN", [30, 31, 30][:seeds], [20] * seeds)
    outcomes += base2new(answered, "CoOp", [20, 22, 20][:seeds], [20] * seeds)
    (table,) = tables(outcomes)
    assert any("repeat with a third" in text for text in table.caption) == (seeds == 2)


def test_fewer_than_six_images_that_differ_have_no_p(answered):
    outcomes = base2new(answered, "ALIGN", [30] * 3, [20] * 3)
    outcomes += base2new(answered, "CoOp", [25] * 3, [20] * 3)
    outcomes += base2new(answered, "VPT", [24] * 3, [0] * 3)
    outcomes += base2new(answered, "MaPLe", [30] * 3, [0] * 3)
    (table,) = tables(outcomes)
    found = lines(table)
    assert found["CoOp"][0].endswith("] (5 images differ)") and found["CoOp"][1] == "equal"
    assert "] p 0.0" in found["VPT"][0]
    alone = [answered(name, 1, "all", right, 1, "dtd", protocol="few_shot", num_params=0)
             for name, right in (("MTA", 1), ("ZERO", 0))]  # fmt: skip
    (table,) = tables(alone, "MTA")
    assert lines(table)["ZERO"] == ["+100.00 [+100.00, +100.00] (one seed, 1 images differ)"]


def test_averages_are_over_the_data_sets_that_both_methods_have(answered):
    outcomes = []
    for dataset, gain in (("dtd", 4), ("eurosat", 8)):
        outcomes += base2new(answered, "ALIGN", [20 + gain], [20], dataset=dataset)
        outcomes += base2new(answered, "CoOp", [20], [20], dataset=dataset)
    outcomes += base2new(answered, "MaPLe", [20], [20], dataset="dtd")
    *_, table = tables(outcomes)
    assert table.title.startswith("Base-to-new, average over 2 data sets: ALIGN minus each other")
    found = lines(table)
    assert found["CoOp"][0].startswith("+15.00 [")
    assert found["CoOp"][2].startswith(f"{2 * 65 * 50 / 115 - 50:+.2f} [")
    assert found["MaPLe"][0].startswith("+10.00 [") and found["MaPLe"][0].endswith("(1 of 2)")
    assert any("an interval is not about other seeds" in text for text in table.caption)


def test_few_shot_has_a_column_for_each_number_of_shots(answered):
    more = {"protocol": "few_shot"}
    outcomes = [answered("ZeroshotCLIP", 1, "all", 20, shots=0, **more)]
    for shots in (1, 16):
        for seed in (1, 2):
            outcomes.append(answered("ALIGN", seed, "all", 20 + shots, shots=shots, **more))
    outcomes.append(answered("CoOp", 2, "all", 38, shots=16, **more))
    (table,) = tables(outcomes)
    assert table.head == ["Method", "1 shot", "16 shots"]
    found = lines(table)
    assert [cell.partition(" ")[0] for cell in found["ZeroshotCLIP"]] == ["+2.50", "+40.00"]
    assert found["CoOp"][0] == "-" and found["CoOp"][1].startswith("-5.00 [")
    assert table.problems == ["CoOp, emoji, 16 shots, Accuracy: 1 of 2 seeds"]
    (table,) = tables(outcomes, "ZeroshotCLIP")  # the other way round
    assert lines(table)["ALIGN"][1].startswith("-40.00 [")


def test_transfer_has_a_column_for_each_target_and_their_average(answered):
    outcomes = []
    for trainer, gain in (("ALIGN", 4), ("CoOp", 0)):
        more = {"protocol": "cross_dataset", "source": "emoji"}
        for seed in (1, 2):
            outcomes.append(answered(trainer, seed, "source", 20, **more))
            for target, n in (("emoji_food", 40), ("emoji_animals", 80)):
                part = trainer, seed, "target", 20 + gain
                outcomes.append(answered(*part, n, target, **more))
    (table,) = tables(outcomes)
    assert table.head == ["Method", "emoji", "emoji_animals", "emoji_food", "Average"]
    numbers = [cell.partition(" ")[0] for cell in lines(table)["CoOp"]]
    assert numbers == ["equal", "+5.00", "+10.00", "+7.50"]


def test_the_settings_of_an_ablation_are_compared_by_name(answered):
    outcomes = []
    for setting, right in (("BETA=0", 20), ("BETA=0.5", 24), ("M=2", 20)):
        more = {"opts": tuple(f"TRAINER.ALIGN.{setting}".split("="))}
        outcomes += base2new(answered, "ALIGN", [right], [20], **more)
    (table,) = tables(outcomes, "ALIGN, BETA 0.5")
    assert lines(table)["ALIGN, BETA 0"][0].startswith("+10.00 [")


def test_runs_that_cannot_be_compared_are_named(answered):
    outcomes = base2new(answered, "ALIGN", [30, 30], [20, 20])
    without = base2new(answered, "CoOp", [30, 30], [20, 20])
    for left in without[:2]:
        (left.run.folder / NAME).unlink()
    other = base2new(answered, "VPT", [30, 30], [20, 20], images="another")
    stale = base2new(answered, "MaPLe", [30, 30], [20, 20])
    stale[0] = replace(stale[0], result=stale[0].result | {"accuracy": 50.0})
    relabelled = base2new(answered, "TCP", [30, 30], [20, 20])
    for one in relabelled[:2]:  # the same images
        label = (np.arange(40) + 1) % 3
        answers = columns(label, np.where(np.arange(40) < 30, label, 3), images="image{:03}.png")
        write_predictions(one.run.folder, answers)
    failed = [outcome("UPT", 1, "base", 0.0, problem="failed: no memory")]
    (table,) = tables([*outcomes, *without, *other, *stale, *relabelled, *failed])
    found = lines(table)
    assert found["CoOp"][0] == found["CoOp"][2] == found["VPT"][0] == found["UPT"][0] == "-"
    assert found["CoOp"][1] == "equal" and found["MaPLe"][0] == "equal (one seed)"
    text = "\n".join(table.problems)
    assert (
        "CoOp, emoji, Base: no predictions; repeat the run with TEST.PREDICTIONS True [seeds 1 2]"
        in text
    )
    for name in ("VPT", "TCP"):
        assert f"{name}, emoji, Base: other test images, or labels, than ALIGN" in text
    assert "MaPLe, emoji, Base: predictions that do not match results.json" in text
    assert "MaPLe, emoji, Base: 1 of 2 seeds" in text
    assert "UPT, emoji, Base: no finished run" in text


def test_every_format_has_the_difference(answered):
    outcomes = base2new(answered, "ALIGN", [30] * 3, [20] * 3)
    outcomes += base2new(answered, "CoOp", [24] * 3, [20] * 3)
    listed = frame(outcomes)
    view = comparisons(listed, "ALIGN")
    for form in ("text", "markdown", "latex", "html"):
        assert "+15.00 [" in shown(view, form, listed).replace("{[}", "[")
    (first, *_) = csv.DictReader(io.StringIO(shown(view, "csv", listed)))
    (same, *_) = json.loads(shown(view, "json", listed))["comparisons"]
    assert float(first["difference"]) == pytest.approx(15) == pytest.approx(same["difference"])
    assert (same["column"], same["other"], same["images"]) == ("base", "CoOp", 40)
    assert same["p"] == same["p_holm"] == pytest.approx(0.012, abs=5e-4)


STYLES = ("emoji", "emoji_blur", "emoji_dither", "emoji_night")


def of_styles(answered, datasets=STYLES):
    """Return outcomes of ALIGN and CoOp, with the same answers on each data set."""
    outcomes = []
    for dataset in datasets:
        outcomes += base2new(answered, "ALIGN", [26, 26], [20, 20], dataset=dataset)
        outcomes += base2new(answered, "CoOp", [20, 21], [16, 20], dataset=dataset)
    return outcomes


def test_motifs_are_resampled_in_all_data_sets_at_once(answered):
    """Four data sets with the same answers to the same motifs are worth as much as one."""
    *single, average = tables(of_styles(answered))
    assert lines(average)["CoOp"][0] == lines(single[0])["CoOp"][0]
    assert "Resampled: motifs and seeds, each in all data sets at once." in average.caption
    about = "about other motifs of these classes and other seeds, not about other classes or data"
    assert any(about in sentence for sentence in average.caption)
    public = tables(of_styles(answered, ["dtd", "eurosat"]))
    (one, *_), average = lines(public[0])["CoOp"], lines(public[-1])["CoOp"][0]
    assert average != one and average.partition(" ")[0] == one.partition(" ")[0]
    assert "Resampled: images and seeds, each in all data sets at once." in public[-1].caption


def test_p_is_adjusted_for_the_comparisons_of_its_column(answered):
    """Those that have no p, since too few images differ, count."""
    outcomes = base2new(answered, "ALIGN", [30] * 3, [20] * 3)
    for trainer, right in (("CoOp", 20), ("MaPLe", 23), ("VPT", 29)):
        outcomes += base2new(answered, trainer, [right] * 3, [20] * 3)
    records = comparisons(frame(outcomes), "ALIGN").records()
    by_name = {r["other"]: r for r in records if r["column"] == "base"}
    p, adjusted = ([r[key] for r in by_name.values()] for key in ("p", "p_holm"))
    assert by_name["VPT"]["p"] is None is by_name["VPT"]["p_holm"]
    expected = holm([1 if x is None else x for x in p])
    assert [x for x in adjusted if x] == pytest.approx([e for e in expected if e < 1])
    assert by_name["CoOp"]["p_holm"] == pytest.approx(3 * by_name["CoOp"]["p"])


def test_the_motifs_of_the_embedded_images_are_those_of_their_split():
    """No motif is in two parts, except two whose emoji are named inconsistently."""
    archive = zipfile.ZipFile(IMAGES)
    parts = defaultdict(set)
    for part, images in json.loads(archive.read("split_emoji.json")).items():
        for image, _, name in images:
            parts[motif("emoji", image), name].add(part)
    assert len({name for name, _ in parts}) == len(parts) == 916
    assert [name for (name, _), found in parts.items() if len(found) > 1] == ["1f9cf", "1f9dc"]
    assert sum("test" in found for found in parts.values()) == 403


def of_stream(trainer, accuracies, order="few:1-4:64", **more):
    """Return few-shot outcomes of seeds 1, 2, ... in a stream, from the accuracies of tasks."""
    found = [
        outcome(
            trainer, seed, "all", np.mean(tasks), "dtd", protocol="few_shot", seeded=True,
            tasks={"accuracy": tasks, "zero_shot_accuracy": tasks},
            stream={"name": order, "order": f"{more.get('drawn', '')}{seed}"},
        )
        for seed, tasks in enumerate(accuracies, 1)
    ]  # fmt: skip
    run = ran(TEST={"STREAM": order})
    return [replace(one, result=one.result | {"run": run}) for one in found]


def test_streams_have_lines_of_their_own_and_tasks_are_paired():
    """Each seed draws its own tasks; those of one seed and number are compared with each other."""
    some = np.random.default_rng(0).uniform(20, 90, (2, 50))
    more = some + 3 + np.arange(50) % 2
    outcomes = of_stream("TDA", more.tolist()) + of_stream("StatA", some.tolist())
    outcomes += of_stream("DPE", some.tolist(), drawn="other")
    outcomes += few_shot("MTA", 16, (70.0, 70.0), "dtd")
    assert all(flaw(one.result) is None for one in outcomes)
    (table,) = tables(outcomes, "TDA, STREAM few:1-4:64")
    found = lines(table)
    (text,) = found["StatA, STREAM few:1-4:64"]
    assert text.startswith("+3.50 [+3.36, +3.64] p < 0.001")
    assert found["DPE, STREAM few:1-4:64"] == ["-"] and found["MTA"] == ["-"]
    assert "Resampled: tasks and seeds." in table.caption
    assert "DPE, STREAM few:1-4:64, dtd, 16 shots, Accuracy: other test images" in str(
        table.problems
    ).replace("DTD", "dtd")
    (of_accuracy,) = metrics(outcomes[:4]).values()
    assert not of_accuracy.problems
