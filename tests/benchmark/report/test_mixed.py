"""Runs that differ are not mixed: each gets its line, named by what differs; so do folders.

The file is long because each thing in which runs differ has a case of its own.
"""

import json
from dataclasses import replace

import pytest
from outcomes import COLUMNS, few_shot, leave, lines, only_table, outcome, page, ran, rows, transfer

from benchmark.__main__ import main
from benchmark.protocols.launches import write_launch
from benchmark.report.frame import frame, main_rows
from benchmark.report.own_sets import name_folders, name_in
from benchmark.report.plots import figures
from benchmark.report.render import render
from benchmark.report.summary import summarise
from benchmark.report.tables import tables


def with_config(seed, beta, part="base", accuracy=50.0, **more):
    """Return the outcome of a run of ALIGN with a value of BETA in its record."""
    one = outcome("ALIGN", seed, part, accuracy, **more)
    one.result["run"] = ran(TRAINER={"ALIGN": {"BETA": beta, "M": 4}}, SEED=seed)
    return one


def test_seeds_with_other_settings_have_lines_of_their_own():
    same = [with_config(seed, 0.5, part) for seed in (1, 2) for part in ("base", "new")]
    assert list(lines(only_table(same))) == ["ALIGN"]
    other = [with_config(3, 0.0, part, 70.0) for part in ("base", "new")]
    found = lines(only_table([*same, *other]))
    assert {name: cells[:3] for name, cells in found.items()} == {
        "ALIGN, BETA 0": ["70.00 (1 of 3)"] * 3,
        "ALIGN, BETA 0.5": ["50.00 ± 0.00 (2 of 3)"] * 3,
    }


NOISE = {"DATASET": {"LABEL_NOISE": 0.5, "LABEL_NOISE_KIND": "pair", "IMBALANCE": 2.0}}


@pytest.mark.parametrize(
    ("drawn", "name"),
    [
        (None, "LABEL_NOISE 0.5, LABEL_NOISE_KIND pair, IMBALANCE 2"),
        ((4, 2), "LABEL_NOISE 0.5, LABEL_NOISE_KIND pair, IMBALANCE 2"),
        ((4, 0), "LABEL_NOISE 0.5, LABEL_NOISE_KIND pair"),
        ((0, 2), "IMBALANCE 2"),
        ((0, 0), "PromptKD"),
    ],
)
def test_noise_and_imbalance_that_change_nothing_are_no_settings(drawn, name):
    none = {"DATASET": {"LABEL_NOISE": 0.0, "LABEL_NOISE_KIND": "symmetric", "IMBALANCE": 1.0}}
    counts = drawn and dict(zip(("wrong_labels", "left_out"), drawn, strict=True))
    noisy, clean = (few_shot("PromptKD", 4, (50,), "emoji") for _ in range(2))
    noisy[0].result.update(run=ran(**NOISE), drawn=counts)
    clean[0].result["run"] = ran(**none)
    assert name in [of.removeprefix("PromptKD, ") for of in lines(only_table(noisy))]
    both = lines(only_table([*noisy, *clean], beside_published=False))
    assert len(both) == (2 if name != "PromptKD" else 1)


def test_values_of_vary_that_change_nothing_are_one_line():
    """Two equal rows, and a comparison of +0.00, of a method that reads no labels."""
    outcomes = []
    for value in (0, 0.5):
        opts = ("DATASET.LABEL_NOISE", str(value))
        for trainer, wrong in (("PromptKD", 0), ("CoOp", 2)):
            (one,) = few_shot(trainer, 4, (50 + value,), "emoji", opts=opts)
            drawn = {"wrong_labels": wrong, "left_out": 0} if value else None
            one.result.update(run=ran(DATASET={"LABEL_NOISE": value}), drawn=drawn)
            outcomes.append(one)
    names = ["CoOp, LABEL_NOISE 0", "CoOp, LABEL_NOISE 0.5", "PromptKD, LABEL_NOISE 0"]
    assert sorted(lines(only_table(outcomes))) == names


def test_initial_weights_are_always_named():
    facts = {"method": "CoOp", "dataset": "Emoji", "classes": "all", "backbone": "emoji"}
    outcomes = few_shot("TPT", 4, (90, 91), "emoji", seeded=True, num_params=0)
    for seed, one in enumerate(outcomes, 1):
        one.result["run"] = ran(MODEL={"INIT_WEIGHTS": f"out/coop/seed{seed}/model.pth.tar-5"})
        one.result["start"] = facts | {"shots": 4, "seed": seed}
    table = only_table(outcomes)
    name = "TPT, INIT_WEIGHTS out/coop/seed/model.pth.tar-5"
    assert list(lines(table)) == [name] and lines(table)[name][0].startswith("90.50")
    assert f"Start of {name}: CoOp on Emoji (emoji, all classes, 4 shots)." in table.caption
    alone = few_shot("TPT", 4, (40, 41), "emoji", seeded=True, num_params=0)
    for one in alone:
        one.result["run"] = ran(MODEL={"INIT_WEIGHTS": ""})
    assert list(lines(only_table(alone))) == ["TPT"]
    other = few_shot("TPT", 4, (70, 71), "emoji", seeded=True, num_params=0)
    for one in other:
        one.result["run"] = ran(MODEL={"INIT_WEIGHTS": "out/other.pth"})
    assert len(lines(only_table([*outcomes, *alone, *other]))) == 3


def test_runs_of_other_sentences_or_orders_are_never_averaged():
    """Also where a file had other content then, which only the record's own text says."""
    outcomes = few_shot("TaskRes", 4, (90, 80), "emoji")
    for one, digest in zip(outcomes, ("1a2b", "3c4d"), strict=True):
        data = {"SENTENCES": f"a.json {digest}", "SENTENCES_RULE": "raw_mean"}
        one.result["run"] = ran(DATASET=data)
    table = lines(only_table(outcomes))
    names = [f"TaskRes, SENTENCES a.json {d}, SENTENCES_RULE raw_mean" for d in ("1a2b", "3c4d")]
    assert list(table) == names and table[names[0]][0].startswith("90.00")
    orders = few_shot("TDA", 4, (90, 80), "emoji", seeded=True)
    for one, digest in zip(orders, ("1a2b", "3c4d"), strict=True):
        one.result["run"] = ran(TEST={"STREAM": f"order.txt:64 {digest}"})
    assert len(lines(only_table(orders))) == 2
    assert [*lines(only_table(orders[:1]))] == ["TDA, STREAM order.txt:64 1a2b"]
    zero = few_shot("ZeroshotCLIP", 4, (50,), "emoji")
    zero[0].result["run"] = ran(DATASET={"SENTENCES": "clip80"})
    assert list(lines(only_table(zero))) == ["ZeroshotCLIP, SENTENCES clip80"]


def test_a_name_is_the_same_on_every_data_set():
    """The average is over both data sets, though the settings differ on one of them only."""
    outcomes = [with_config(seed, beta) for seed, beta in ((1, 0.5), (2, 0.0))]
    outcomes += [with_config(1, 0.5, dataset="emoji_food")]
    listed = rows(outcomes)
    names = listed[listed["dataset"] == "emoji_food"]["name"]
    assert set(names) == {"ALIGN, BETA 0.5"}


def test_what_vary_set_is_told_apart_from_runs_with_another_clip():
    """Runs with other settings, each with its own CLIP, were named by both."""
    outcomes = few_shot("ALIGN", 1, (50, 52), "emoji", backbone="ViT-L/14", config="emoji")
    more = {"backbone": "emoji", "opts": ("TRAINER.ALIGN.M", "2")}
    outcomes += few_shot("ALIGN", 1, (60, 62), "emoji", **more)
    assert sorted(lines(only_table(outcomes))) == [
        "ALIGN, M 2, backbone emoji", "ALIGN, backbone ViT-L/14"
    ]  # fmt: skip


def test_an_average_says_what_differs_between_its_data_sets():
    """Nothing differs on one data set, so that no line would name it."""
    outcomes = [
        with_config(1, beta, part, 40.0 + 10 * beta, dataset=name)
        for name, beta in (("emoji", 0.5), ("emoji_food", 0.0))
        for part in ("base", "new")
    ]
    outcomes += [outcome("CoOp", 1, part, 50.0, name)
                 for name in ("emoji", "emoji_food") for part in ("base", "new")]  # fmt: skip
    said = "Settings that differ between the data sets: ALIGN (BETA 0.5, 0.0)."
    *single, average = next(iter(tables(rows(outcomes)).values()))
    assert said in average.caption and not any("differ" in str(of.caption) for of in single)
    assert list(lines(average)) == ["CoOp", "ALIGN"]
    assert said in " ".join(render(rows(outcomes), "latex").split())
    of = {one["method"]: one for one in json.loads(render(rows(outcomes), "json"))["averages"]}
    assert of["ALIGN"]["differing"] == "BETA 0.5, 0.0" and "differing" not in of["CoOp"]
    for one in outcomes[:4]:  # a mark says so
        one.result["per_dataset"] = ["TRAINER.ALIGN.BETA"]
    assert "differ between" not in render(rows(outcomes), "text")


def test_keys_of_the_machine_or_the_run_are_no_settings():
    outcomes = few_shot("CoOp", 1, (50, 52))
    for number, one in enumerate(outcomes):
        one.result["run"] = ran(
            SEED=number, OUTPUT_DIR=str(number), DATASET={"ROOT": str(number)},
            DATALOADER={"NUM_WORKERS": number}, TRAINER={"MEMORY_BUDGET": number},
        )  # fmt: skip
    assert list(lines(only_table(outcomes, beside_published=False))) == ["CoOp"]


@pytest.mark.parametrize(
    ("facts", "names"),
    [
        (("backbone", "ViT-L/14"), ["backbone ViT-B/16", "backbone ViT-L/14"]),
        (("num_test", 90), ["100 test images", "90 test images"]),
        (("data_fingerprint", "b" * 64), [f"images {'a' * 12}", f"images {'b' * 12}"]),
        (("backbone_sha256", "b" * 64), [f"weights {'a' * 12}", f"weights {'b' * 12}"]),
        (("split", "folds"), ["split test", "split folds"]),
    ],
    ids=lambda value: value[0],
)
def test_another_clip_or_other_images_are_in_the_names_of_all_methods(facts, names):
    known = {"num_test": 100, "data_fingerprint": "a" * 64, "backbone_sha256": "a" * 64}
    one = few_shot("CoOp", 1, (50, 52), "emoji", **known)
    key, value = facts
    other = few_shot("ALIGN", 1, (60, 62), "emoji", **known | {key: value})
    ours, theirs = names
    assert list(lines(only_table(one + other))) == [f"CoOp, {ours}", f"ALIGN, {theirs}"]
    same = few_shot("ALIGN", 1, (60, 62), "emoji", **known)
    assert list(lines(only_table(one + same))) == ["CoOp", "ALIGN"]
    assert key != "backbone" or f"ALIGN, {theirs}" in page(one + other)


def in_precision(trainer, seed, part="base", precision="float32", **more):
    return outcome(trainer, seed, part, 50.0 + seed, precision=precision, **more)


def test_seeds_in_another_precision_have_lines_of_their_own():
    """A Slurm array on mixed nodes averaged them; another method may have one of its own."""
    outcomes = [in_precision("ALIGN", seed, part) for seed in (1, 2) for part in ("base", "new")]
    outcomes += [in_precision("CoOp", 1, part, "bfloat16") for part in ("base", "new")]
    table = only_table(outcomes)
    assert list(lines(table)) == ["CoOp", "ALIGN"]
    assert "Computed in bfloat16: CoOp; in float32: ALIGN." in table.caption
    assert "Computed" not in str(only_table(outcomes[:4]).caption)
    outcomes += [in_precision("ALIGN", 3, part, "bfloat16") for part in ("base", "new")]
    outcomes.append(outcome("CoOp", 2, "base", 50.0))  # of a record that does not say it
    found = lines(only_table(outcomes))
    assert {name: cells[0] for name, cells in found.items()} == {
        "CoOp": "50.50 ± 0.71 (2 of 3)",
        "ALIGN, precision bfloat16": "53.00 (1 of 3)",
        "ALIGN, precision float32": "51.50 ± 0.71 (2 of 3)",
    }


def test_both_tests_of_a_training_in_two_precisions_are_one_line():
    outcomes = [
        in_precision("ALIGN", seed, part, precision)
        for seed in (1, 2)
        for part, precision in (("base", "float16"), ("new", "float32"))
    ]
    assert list(lines(only_table(outcomes))) == ["ALIGN, precision float16 + float32"]


def test_data_sets_in_two_precisions_are_not_averaged():
    outcomes = [in_precision("ALIGN", 1), in_precision("ALIGN", 1, "new")]
    more = {"precision": "bfloat16", "dataset": "emoji_food"}
    outcomes += [in_precision("ALIGN", 1, part, **more) for part in ("base", "new")]
    listed = rows(outcomes)
    averages = listed[listed["average"] & (listed["column"] == "h")]
    assert dict(zip(averages["name"], averages["count"], strict=True)) == {
        "ALIGN, precision bfloat16": 1, "ALIGN, precision float32": 1
    }  # fmt: skip


def test_methods_in_two_precisions_are_compared_which_is_said(tmp_path, capsys):
    outcomes = [in_precision("ALIGN", 1), in_precision("CoOp", 1, precision="bfloat16")]
    outcomes.append(in_precision("ALIGN", 2, precision="bfloat16"))
    leave(tmp_path, outcomes, COLUMNS)
    assert main(["report", str(tmp_path), "--compare", "ALIGN, precision bfloat16"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    mine = "Computed in bfloat16: ALIGN, precision bfloat16, CoOp; in float32: ALIGN, precision"
    assert mine in said


TEACHER = {
    "method": "PromptSRC", "dataset": "emoji", "classes": "base", "shots": 16, "seed": 1,
    "label_noise": 0.0, "imbalance": 1.0, "backbone": "ViT-L/14", "digest": "0a", "place": "there",
}  # fmt: skip
SAID = "PromptSRC on emoji (ViT-L/14, base classes, 16 shots)"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"label_noise": 0.5, "label_noise_kind": "pair"}, SAID[:-1] + ", label noise 0.5 pair)"),
        ({"imbalance": 10.0}, SAID[:-1] + ", imbalance 10)"),
        ({"seed": 2}, SAID[:-1] + ", seed 2)"),
        ({key: "unknown" for key in TEACHER if key not in ("method", "backbone")},
         "PromptSRC trained on unknown images (ViT-L/14)"),
    ],
    ids=["noise", "imbalance", "another seed", "public"],
)  # fmt: skip
def test_students_of_different_teachers_are_not_mixed(changes, text):
    one = few_shot("PromptKD", 1, (50,), "emoji", teacher=TEACHER)
    table = only_table(one + few_shot("CoOp", 1, (50,), "emoji"))
    assert f"Teacher of PromptKD: {SAID}." in table.caption
    assert "PromptKD" in lines(table)
    other = few_shot("PromptKD", 4, (60,), "emoji", teacher=TEACHER | changes)
    rows = lines(only_table(one + other))
    assert {f"PromptKD, teacher {SAID}", f"PromptKD, teacher {text}"} <= rows.keys()


def test_clips_whose_names_begin_alike_are_not_mixed():
    outcomes = few_shot("CoOp", 1, (50,), "emoji", backbone="ViT-B-16/laion400m_e31")
    more = {"protocol": "few_shot", "shots": 1, "backbone": "ViT-B-16/laion2b_s34b"}
    outcomes.append(outcome("CoOp", 2, "all", 60.0, "emoji", **more))
    assert sorted(lines(only_table(outcomes))) == [
        "CoOp, backbone ViT-B-16/laion2b_s34b", "CoOp, backbone ViT-B-16/laion400m_e31"
    ]  # fmt: skip


def test_several_keys_that_differ_are_named_in_the_order_of_the_config():
    """`--compare` takes these names, so that they are the same in every process."""
    keys = list("HCAGFBED")
    outcomes = few_shot("CoOp", 1, (50, 52), "emoji")
    for number, one in enumerate(outcomes):
        one.result["run"] = ran(OPTIM=dict.fromkeys(keys, number))
    first = ", ".join(f"{key} 0" for key in keys)
    assert next(iter(lines(only_table(outcomes)))) == f"CoOp, {first}"


def test_base_and_new_classes_of_a_run_on_other_images_are_one_line():
    sizes = {"base": (100, 90), "new": (80, 70)}
    outcomes = [
        outcome(trainer, 1, part, 50.0, num_test=count[trainer == "ALIGN"])
        for part, count in sizes.items()
        for trainer in ("CoOp", "ALIGN")
    ]
    assert list(lines(only_table(outcomes))) == [
        "CoOp, 100 + 80 test images", "ALIGN, 90 + 70 test images"
    ]  # fmt: skip


@pytest.mark.filterwarnings("error")
def test_settings_that_cannot_be_sorted_are_grouped_without_a_warning():
    settings = [("A", "0.5"), ("A", "x"), ("A", "x", "B", "1"), ()]
    clips = ["ViT-B/16", "RN50", "ViT-B/16", "ViT-B/16"]
    found = [
        few_shot("ALIGN", 16, (50.0,), opts=opts, backbone=clip)[0]
        for opts, clip in zip(settings, clips, strict=True)
    ]
    assert "ALIGN, A x, B 1, backbone ViT-B/16" in set(frame(found)["name"])


@pytest.mark.parametrize("seeded", [True, False])
def test_a_seed_counts_if_the_record_says_so(seeded):
    """A method that trains nothing may depend on the order of its images."""
    more = {"num_params": 0} | ({"seeded": True} if seeded else {})
    outcomes = few_shot("Stream", 4, (50,), "emoji", **more) + few_shot(
        "CoOp", 4, (60, 62), "emoji"
    )
    expected = ["50.00 (1 of 2)"] if seeded else ["50.00", "-"]
    assert lines(only_table(outcomes))["Stream"] == expected
    if seeded:  # a run without a record belongs to those with one
        outcomes += [outcome("Stream", 2, "all", 0, "emoji", "failed: why", "few_shot", shots=4)]
        assert lines(only_table(outcomes))["Stream"] == expected


def test_changed_training_images_are_always_named():
    """Also if all runs have them: a failed one is of the same line, and none is next to papers."""
    coop = few_shot("CoOp", 16, (50, 52))
    assert "CoOp, published" in lines(only_table(coop))
    failed = outcome("CoOp", 3, "all", 0, "dtd", "failed: no memory", "few_shot")
    outcomes = [*coop, failed, *few_shot("ZeroshotCLIP", 0, (40,))]
    changes = {"LABEL_NOISE": 0.25, "LABEL_NOISE_KIND": "pair", "IMBALANCE": 1.0}
    for one in filter(lambda one: one.result, outcomes):
        one.result["run"] = ran(DATASET=changes)
    found = lines(only_table(outcomes))
    assert found["CoOp, LABEL_NOISE 0.25, LABEL_NOISE_KIND pair"][1] == "51.00 ± 1.41 (2 of 3)"
    assert found["ZeroshotCLIP"][0] == "40.00"
    assert not any(name.startswith("CoOp") and "publ" in name for name in found) and len(found) < 5


def own(root, trainer="CoOp", accuracies=(50.0,), origin="", images="1", name="image_folder"):
    """Return outcomes on a folder of images."""
    more = {"config": "few_shot", "data_fingerprint": images}
    found = few_shot(trainer, 4, accuracies, name, **more)
    record = ran(DATASET={"ROOT": root})
    return [replace(of, result=of.result | {"run": record}, origin=origin) for of in found]


def names(outcomes) -> list[str]:
    return list(dict.fromkeys(outcome.run.dataset for outcome in name_folders(outcomes)))


def test_two_folders_are_two_sets_that_are_not_averaged():
    outcomes = own("/x/birds", origin="b") + own("/y/cars", origin="c", images="2")
    assert names(outcomes) == ["image_folder=birds", "image_folder=cars"]
    listed = main_rows(summarise(frame(outcomes)))
    titles = [table.title for group in tables(listed).values() for table in group]
    assert titles == [
        f"Few-shot on {name}: accuracy (%) on test images, seed 1" for name in ("birds", "cars")
    ]
    ((drawn, _),) = figures(listed).values()
    assert [axis.get_title() for axis in drawn.axes] == ["birds", "cars"]


def test_runs_without_a_record_have_the_name_of_the_others():
    (failed,) = own("/x/birds", "ALIGN")
    failed = replace(failed, result=None, problem="failed: no memory")
    assert names([failed, *own("/x/birds")]) == ["image_folder=birds"]
    assert names([failed]) == ["image_folder"]
    given = own("/x/birds", name="image_folder=pets")
    assert names(given) == ["image_folder=pets"]


def test_folders_of_one_name_are_numbered_if_their_images_differ():
    roots = {"/a/pets": "1", "/b/pets": "2", "/c/pets": "1", "/d/pets": "3", "/e/cars": "4"}
    outcomes = [of for root, images in roots.items() for of in own(root, images=images)]
    assert [of.run.dataset.partition("=")[2] for of in name_folders(outcomes)] == [
        "pets", "pets #2", "pets", "pets #3", "cars"
    ]  # fmt: skip


def test_the_source_of_a_transfer_is_named():
    outcomes = transfer("CoOp", "image_folder", {"image_folder": 60, "dtd": 40})
    record = {"run": ran(DATASET={"ROOT": "birds"})}
    source = replace(outcomes[0], result=outcomes[0].result | record)
    found = name_folders([source, *outcomes[1:]])
    assert [(of.run.source, of.run.dataset) for of in found] == [
        ("image_folder=birds", "image_folder=birds"), ("image_folder=birds", "dtd"),
    ]  # fmt: skip


@pytest.mark.parametrize("root", ["", ".", "..", "/", None, 3])
def test_a_folder_without_a_name_keeps_that_of_the_set(root):
    assert names(own(root)) == (["image_folder=3"] if root == 3 else ["image_folder"])


def test_a_single_run_has_the_name_that_was_given_or_of_its_folder(tmp_path):
    record = {"dataset": "ImageFolder", "run": ran(DATASET={"ROOT": "/x/birds$\n"})}
    assert name_in(tmp_path, record) == r"birds$\n"
    given = tmp_path / "seed1"
    given.mkdir()
    (pets,) = own("/x/birds", name="image_folder=pets")
    write_launch(replace(pets.run, folder=given))
    assert name_in(given, record) == "pets"
    assert name_in(tmp_path, {"dataset": "ImageFolder"}) == "ImageFolder"
    assert name_in(given, {"dataset": "DescribableTextures"}) == "DescribableTextures"


def test_reports_name_the_folder(tmp_path, capsys):
    leave(tmp_path, own("/x/my_birds"))
    for record in tmp_path.rglob("results.json"):  # as train.py writes it
        record.write_text(json.dumps(json.loads(record.read_text()) | {"dataset": "ImageFolder"}))
    for form in ("text", "latex", "html", "json"):
        assert main(["report", str(tmp_path), "--format", form]) == 0
        told = capsys.readouterr().out
        assert "birds" in told and "ImageFolder" not in told
