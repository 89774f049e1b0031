"""Published numbers next to ours.

The file is long because one label and several share the files and tables that are read.
"""

import csv
import json
from collections import defaultdict
from statistics import mean

import pytest
from checkout import REPOSITORY
from outcomes import few_shot, lines, only_table, outcome, ran, rows, transfer

from benchmark.protocols import (
    BASE2NEW,
    CROSS_DATASET,
    DOMAIN_GENERALIZATION,
    FEW_SHOT,
    PROTOCOLS,
    SEVERAL_LABELS,
)
from benchmark.protocols.configs import GROUPS
from benchmark.report import published
from benchmark.report.frame import frame
from benchmark.report.names import DATASETS
from benchmark.report.paired import harmonic
from benchmark.report.published import AVERAGE, numbers
from benchmark.report.render import render
from benchmark.report.summary import summarise, usual_rows
from benchmark.report.table import as_text
from benchmark.report.tables import tables

ELEVEN = list(DATASETS)[:11]

# Printed H that does not follow from base and new: papers may average H over seeds or data sets.
OTHER_H = {
    ("PromptKD", "stanford_cars"): 83.08,
    ("PromptSRC+DePT", "ucf101"): 82.41,
    ("PromptKD+ATPrompt", "food101"): 93.16,
    ("PromptKD+TextRefiner", "imagenet"): 74.35,
    ("MMRL", "dtd"): 73.92,
    ("CoCoA-Mix", "average"): 77.15,
    ("CoCoA-Mix", "dtd"): 68.28,
    ("CoCoA-Mix", "eurosat"): 75.62,
    ("RMAdapter", "average"): 80.78,
    ("RMAdapter", "imagenet"): 74.55,
    ("RMAdapter", "caltech101"): 96.29,
    ("RMAdapter", "oxford_flowers"): 86.57,
    ("RMAdapter", "fgvc_aircraft"): 39.98,
    ("RMAdapter", "dtd"): 74.13,
    ("RPO", "average"): 77.95,
    ("RPO", "caltech101"): 96.14,
    ("RPO", "dtd"): 68.65,
    ("CoOp+Spotlighter", "dtd"): 66.25,
    ("PromptKD+Spotlighter", "average"): 82.97,
    ("HPT", "average"): 80.42,
    ("GDA", "average"): 78.96,
}
# Printed averages that do not follow from the data sets: a misprint, and two with one decimal.
OTHER_AVERAGES = {
    ("base2new", "MultiModalAdapter", "new"): 76.94,
    ("domain_generalization", "GalLoP", "accuracy"): 61.27,
    ("domain_generalization", "CTPT", "accuracy"): 59.55,
}


def base2new(trainer="CoOp", datasets=("dtd",), values=(79.0, 41.0), **more):
    return [
        outcome(trainer, 1, part, value, dataset, config="base2new", **more)
        for dataset in datasets
        for part, value in zip(("base", "new"), values, strict=True)
    ]


def test_published_numbers_are_shown_next_to_ours():
    table = only_table(few_shot("CoOp", 1, (48, 49)) + few_shot("VPT", 1, (48, 49)))
    assert lines(table) == {
        "CoOp": ["48.50 ± 0.71"],
        "CoOp, published": ["48.40"],
        "CoOp, difference": ["+0.10"],
        "VPT": ["48.50 ± 0.71"],
    }
    assert "Published (ViT-B/16): CoOp: ALIGN paper, Table D.1." in table.caption
    assert table.best(1) == set()  # ours are equal, and published ones do not compete
    (record,) = json.loads(render(rows(few_shot("CoOp", 1, (48,))), "json"))["rows"]
    assert record["accuracy_published"] == 48.4
    assert record["accuracy_difference"] == pytest.approx(-0.4)


def test_other_data_are_not_compared():
    table = only_table(few_shot("CoOp", 1, (48, 49), as_published=False))
    assert [*lines(table)] == ["CoOp"] and "test images, than published: DTD. P" in " ".join(
        table.caption
    )
    assert "CoOp, published" in lines(only_table(few_shot("CoOp", 1, (48,), as_published=True)))
    mixed = base2new(datasets=ELEVEN[:10]) + base2new(datasets=ELEVEN[10:], as_published=False)
    *_, average = tables(rows(mixed))[BASE2NEW]
    assert [*lines(average)] == ["CoOp"]


def test_base_to_new_has_published_numbers_for_each_data_set_and_the_average():
    *_, table, average = tables(rows(base2new(datasets=ELEVEN)))[BASE2NEW]
    assert table.title.startswith("Base-to-new on UCF101")
    assert lines(table)["CoOp, published"][:3] == ["84.69", "56.05", "67.46"]
    assert lines(average)["CoOp, published"] == ["82.69", "63.22", "71.66", ""]
    assert lines(average)["CoOp, difference"][:2] == ["-3.69", "-22.22"]
    (*_, average), *_ = tables(rows(base2new(datasets=ELEVEN[:10]))).values()
    assert list(lines(average)) == ["CoOp"]  # the papers' average is over other data sets


BIOMED = {"backbone": published.BACKBONES["medical"]}


def test_medical_averages_are_those_of_biomedclip():
    sets = set(GROUPS["medical"])
    without = base2new("BiomedCoOp", sorted(sets - {"busi"}), **BIOMED)
    *_, average = tables(rows(without), all_published=True)[BASE2NEW]
    assert lines(average)["BiomedCoOp, published (llm, per data set)"][:3] == [
        "76.26", "73.92", "75.07",
    ]  # fmt: skip
    assert lines(average)["BiomedCoOp, difference"][:2] == ["+2.74", "-32.92"]
    assert lines(average)["ZeroshotCLIP, published"][2] == "53.81"
    said = " ".join(average.caption)
    assert "Published (BiomedCLIP): " in said and "dropout in BERT while training" in said
    assert "ALIGN" not in said and "TCP, published" not in lines(average)
    shots = [few_shot("CoOp", 4, (60,), name, **BIOMED) for name in sets]
    *_, average = tables(rows(sum(shots, [])))[FEW_SHOT]
    assert lines(average)["CoOp, published"] == ["59.75"]


@pytest.mark.parametrize("other", ["backbone", "a set too few", "a set too many"])
def test_medical_averages_of_other_settings_are_not_compared(other):
    sets, more = [*GROUPS["medical"]], dict(BIOMED)
    if other == "backbone":
        more = {}
    sets = sets[1:] if other == "a set too few" else sets
    sets += ["dtd"] * (other == "a set too many")
    shots = [few_shot("CoOp", 4, (60,), name, **more) for name in sets]
    *_, average = tables(rows(sum(shots, [])))[FEW_SHOT]
    assert [*lines(average)] == ["CoOp"]


def test_transfer_has_published_numbers_for_source_targets_and_average():
    targets = dict.fromkeys(["imagenet", *CROSS_DATASET.targets["imagenet"]], 60.0)
    table = only_table(transfer("MaPLe", "imagenet", targets))
    assert lines(table)["MaPLe, published"][::11] == ["70.72", "66.30"]
    styles = dict.fromkeys(["imagenet", *DOMAIN_GENERALIZATION.targets["imagenet"]], 60.0)
    more = {"protocol": "domain_generalization"}
    outcomes = transfer("ZeroshotCLIP", "imagenet", styles, shots=0, **more)
    table = only_table(outcomes + transfer("ALIGN", "imagenet", styles, **more))
    assert lines(table)["ZeroshotCLIP, published"][-1] == "57.17"
    assert published.NO_ALIGN in table.caption


def test_methods_that_were_not_run_are_shown_when_asked_for():
    listed = rows(few_shot("CoOp", 1, (48,)) + few_shot("CoOp", 16, (69,)))
    ((table,),) = tables(listed, all_published=True).values()
    assert lines(table)["PLOTPP, published"] == ["54.57", "71.43"]
    assert "PLOT++: PLOT repository, plot-pp README" in table.caption[-1]
    ((table,),) = tables(rows(few_shot("CoOp", 1, (48,), "emoji")), all_published=True).values()
    assert list(lines(table)) == ["CoOp"]


def test_methods_that_papers_call_by_another_name():
    names = {"MultiModalAdapter": "79.87", "TwoSFS": "80.20"}
    for trainer, h in names.items():
        *_, average = tables(rows(base2new(trainer, ELEVEN)))[BASE2NEW]
        assert lines(average)[f"{trainer}, published"][2] == h
    ((table,),) = tables(rows(few_shot("SOTGLP", 16, (70,)))).values()
    assert list(lines(table)) == ["SOTGLP"]  # there is only the average of all data sets
    assert published.find(FEW_SHOT, "SOTGLP", AVERAGE, 16).values == {"accuracy": 85.1}
    assert published.kinds(FEW_SHOT, "SOTGLP") == ["per data set"]


def test_an_average_of_which_only_h_is_printed():
    *_, average = tables(rows(base2new(datasets=ELEVEN)), all_published=True)[BASE2NEW]
    assert lines(average)["LwEIB, published (llm)"] == ["-", "-", "81.21", ""]
    *_, ours = tables(rows(base2new("LwEIB", ELEVEN)))[BASE2NEW]
    assert lines(ours)["LwEIB, published (llm)"][2] == "81.21"
    assert lines(ours)["LwEIB, difference"][:2] == ["-", "-"]


@pytest.mark.parametrize(
    "other",
    [
        {"dataset": "emoji"},
        {"backbone": "RN50"},
        {"split": "val"},
        {"trainer": "MMP"},
        {"shots": 3},
    ],
    ids=lambda other: next(iter(other)),
)
def test_published_numbers_are_left_out_in_other_settings(other):
    setting = {"trainer": "ALIGN", "dataset": "dtd", "shots": 4, "part": "all"}
    setting |= {"protocol": "few_shot", "seed": 1, "accuracy": 60.0}
    assert "published" in as_text(only_table([outcome(**setting)]))
    assert "published" not in as_text(only_table([outcome(**setting | other)]))


def test_other_shots_than_the_papers_have_no_published_number():
    assert "CoOp, published" in lines(only_table(base2new()))
    assert "CoOp, published" not in lines(only_table(base2new(shots=4)))


def test_the_misprint_is_marked_and_not_compared():
    outcomes = few_shot("ALIGN", 8, (80,), "ucf101") + few_shot("ALIGN", 16, (86,), "ucf101")
    table = only_table(outcomes)
    assert lines(table)["ALIGN, published"] == ["81.99", "95.69 (misprint)"]
    assert lines(table)["ALIGN, difference"] == ["-1.99", "-"]
    assert published.MISPRINT in table.caption
    *_, record = json.loads(render(rows(outcomes), "json"))["rows"]
    assert record["published_is_misprint"] and record["accuracy_difference"] is None
    assert "& 95.69 (misprint)" in render(rows(outcomes), "latex")


def test_an_average_that_is_not_printed_follows_from_the_data_sets():
    outcomes = [
        one for shots in (1, 16) for name in ELEVEN for one in few_shot("ALIGN", shots, (70,), name)
    ]
    *_, table = tables(rows(outcomes))[FEW_SHOT]
    # Table D.1: the eleven numbers add up to 770.45 with 1 shot, and to 917.26 with 16
    assert lines(table)["ALIGN, published"] == ["70.04", "83.39 (misprint)"]
    assert lines(table)["ALIGN, difference"] == ["-0.04", "-"]
    assert published.MISPRINT in table.caption
    assert lines(tables(rows(outcomes[:10]))[FEW_SHOT][-1]).keys() == {"ALIGN"}


def test_the_files_are_consistent():
    assert len([key for key in numbers(FEW_SHOT) if key.trainer == "ALIGN"]) == 12 * 5
    for protocol in PROTOCOLS.values():
        found = numbers(protocol)
        for key, theirs in found.items():
            if "base" in theirs.values:
                h = harmonic(theirs.values["base"], theirs.values["new"])
                wrong = (protocol.name, *key) in published.MISPRINTS
                assert wrong == (abs(theirs.values["h"] - h) > 0.1 and key[:2] not in OTHER_H), key
                printed = h if wrong else theirs.values["h"]
                assert OTHER_H.get(key[:2], printed) == pytest.approx(h, abs=0.02), key
            if key.dataset != AVERAGE:
                continue
            source = "" if protocol in (BASE2NEW, FEW_SHOT) else "imagenet"
            others = [
                other.values
                for at, other in found.items()
                if at[::2] == key[::2] and at.dataset not in (AVERAGE, source)
            ]
            for column in set(theirs.values) - {"h"} if others else ():
                average = mean(values[column] for values in others)
                printed = OTHER_AVERAGES.get(
                    (protocol.name, key.trainer, column), theirs.values[column]
                )
                assert printed == pytest.approx(average, abs=0.02), key
    configs = {path.stem for path in (REPOSITORY / "configs/datasets").glob("*.yaml")}
    assert set(DATASETS) <= configs


@pytest.mark.parametrize("group", published.BACKBONES)
@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_a_line_is_of_a_method_a_data_set_and_a_kind_and_there_is_one(protocol, group):
    files = published.FOLDER.glob(f"{group and group + '_'}{protocol.name}*.csv")
    lines = [line for file in files for line in csv.DictReader(file.read_text("utf-8").split("\n"))]
    found = [published._read(line, protocol, "") for line in lines]
    assert len(dict(found)) == len(lines)
    for line, (key, theirs) in zip(lines, found, strict=True):
        assert None not in line and key.dataset in (AVERAGE, *DATASETS), line
        assert key.trainer and theirs.source and all(0 <= x <= 100 for x in theirs.values.values())
        assert theirs.kinds == [published.PLAIN] or {*theirs.kinds} <= {*published.MARKS}, line


def test_rows_of_a_method_have_one_kind_and_cover_its_data_sets():
    for protocol in PROTOCOLS.values():
        of = defaultdict(list)
        for key, theirs in numbers(protocol).items():
            of[key.trainer].append((key.dataset, theirs.kinds))
        for trainer, lines_of in of.items():
            assert len({tuple(kinds) for _, kinds in lines_of}) == 1, trainer
            if protocol is BASE2NEW:
                there = {dataset for dataset, _ in lines_of}
                assert there in ({AVERAGE}, {AVERAGE, *ELEVEN}), trainer


def test_kinds_are_marked_and_the_marks_explained():
    listed = rows(base2new("PromptKD", values=(80, 60)))
    (table, *_) = next(iter(tables(listed, all_published=True).values()))
    shown = lines(table)
    assert shown["PromptKD, published (unlabelled, per data set, teacher)"][:2] == [
        "85.84",
        "71.37",
    ]
    assert "PromptSRC, published" in shown and "CoPrompt, published (llm, per data set)" in shown
    (meant,) = [sentence for sentence in table.caption if sentence.startswith("Beyond")]
    assert "teacher: a larger teacher" in meant and "llm: words or sentences" in meant
    latex = render(listed, "latex", all_published=True)
    assert "CoPrompt, published (llm, per data set) &" in latex
    assert "teacher: a larger teacher" in latex
    assert "Beyond labelled" not in as_text(only_table(base2new()))


def test_a_misprint_of_a_method_that_was_not_run_is_marked_too():
    (table,) = next(iter(tables(rows(base2new(datasets=["ucf101"])), all_published=True).values()))
    assert lines(table)["MultiModalAdapter, published"][1] == "80.03 (misprint)"
    assert published.MISPRINT in table.caption


@pytest.mark.parametrize(
    "protocol, trainer, dataset, shots, value, kind",
    [
        (DOMAIN_GENERALIZATION, "TPT", AVERAGE, 16, 60.81, "one test image"),
        (DOMAIN_GENERALIZATION, "TPS+CoOp", AVERAGE, 16, 63.46, "one test image"),  # not printed
        (CROSS_DATASET, "ZERO", "eurosat", 16, 34.33, "one test image"),
        (CROSS_DATASET, "CTPT", AVERAGE, 16, 64.57, "one test image"),
        (CROSS_DATASET, "OTPT", AVERAGE, 16, 64.12, "one test image"),  # not printed
        (DOMAIN_GENERALIZATION, "TextRefiner", AVERAGE, 16, 59.92, "plain"),
        (FEW_SHOT, "LPPlusPlus", AVERAGE, 4, 75.77, "validation"),
        (FEW_SHOT, "TipAdapterF", AVERAGE, 1, 70.62, "validation"),
        (FEW_SHOT, "GDA", AVERAGE, 8, 79.71, "validation"),
        (FEW_SHOT, "CLIPSVD", AVERAGE, 16, 82.97, "plain"),
    ],
)
def test_methods_that_adapt_or_search_have_published_numbers(
    protocol, trainer, dataset, shots, value, kind
):
    theirs = published.find(protocol, trainer, dataset, shots)
    assert theirs.values == {"accuracy": value} and theirs.kinds == [kind] and theirs.source


def of_several(trainer="DualCoOp", dataset="voc2007", known="0.1", **more):
    """Return the outcome of a run on images with several labels."""
    setting = {"backbone": "RN101", "shots": -1, "protocol": "several_labels", "several": "ranks"}
    setting |= {"opts": ("DATASET.KNOWN", known) if known else (), "map": 89.0}
    setting |= {"map_difficult_absent": 87.5} if dataset == "voc2007" else {}
    one = outcome(trainer, 1, "all", None, dataset, **setting | more)
    del one.result["accuracy"]
    return one


def several(*names, **more):
    """Return the usual tables of such a run, by metric."""
    outcomes = [of_several(*names, **more)]
    (found,) = tables(usual_rows(summarise(frame(outcomes))), all_published=True).values()
    return {table.title.partition(" (%)")[0].partition(": ")[2]: table for table in found}


def test_published_numbers_of_voc_are_beside_map_with_difficult_objects_absent():
    found = several()
    assert [*lines(found["mAP"])] == ["DualCoOp, KNOWN 0.1"]
    table = found["mAP (difficult absent)"]
    shown = lines(table)
    assert shown["DualCoOp, KNOWN 0.1"] == ["87.50"]
    assert shown["DualCoOp, KNOWN 0.1, published (other recipe)"] == ["90.30"]
    assert shown["DualCoOp, KNOWN 0.1, difference"] == ["-2.80"]
    assert shown["DualCoOp, KNOWN 0.9, published (other recipe)"] == ["94.20"]
    assert len(shown) == 11 and published.OF_OTHER_RECIPE in table.caption
    assert table.caption[-1].startswith("Published (RN101): DualCoOp: DualCoOp paper, table of")


@pytest.mark.parametrize("form", ["text", "json", "html"])
def test_reports_of_voc_have_them_too(reported, form):
    said = reported([of_several(map_difficult_absent=87.3)], "--format", form)
    of_map, _, other = said.partition("mAP (difficult absent)" if form != "json" else "_absent")
    assert "-3.0" in other and "89.0" in of_map and "-3.0" not in of_map
    assert "More metrics" not in said


@pytest.mark.parametrize(("dataset", "average"), [("coco2014", 81.9), ("voc2007", 93.2)])
def test_shares_of_known_labels_have_the_printed_average(dataset, average):
    of = [
        theirs for key, theirs in numbers(SEVERAL_LABELS).items()
        if key.trainer.startswith("DualCoOp, KNOWN 0.") and key.dataset == dataset
    ]  # fmt: skip
    assert len(of) == 9 and round(mean(theirs.values["map"] for theirs in of), 1) == average


@pytest.mark.parametrize(
    "other",
    [{"known": "0.15"}, {"known": ""}, {"backbone": "RN50"}, {"shots": 16},
     {"as_published": False}, {"run": ran(MODEL={"INIT_WEIGHTS": "seed1/x.pth"})}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_published_numbers_of_other_shares_clips_and_starts_are_left_out(other):
    assert "DualCoOp, KNOWN 0.1, difference" in lines(several(dataset="coco2014")["mAP"])
    table = several(dataset="coco2014", **other)["mAP"]
    assert not [name for name in lines(table) if name.endswith("difference")]


def test_published_numbers_of_public_files_are_for_runs_of_a_file():
    of_file = {"run": ran(MODEL={"INIT_WEIGHTS": "rn50_coco2014.pth"}), "num_params": 0}
    plain = {"dataset": "coco2014", "known": "", "backbone": "RN50"}
    name = "TaIDPT, INIT_WEIGHTS rn50_coco2014.pth"
    assert lines(several("TaIDPT", **plain, **of_file)["mAP"])[f"{name}, published"] == ["65.10"]
    assert [*lines(several("TaIDPT", **plain)["mAP"])] == ["TaIDPT"]


def test_an_average_over_both_data_sets_has_no_published_number():
    assert not [key for key in numbers(SEVERAL_LABELS) if key.dataset == AVERAGE]
