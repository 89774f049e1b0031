"""Image folders have the names of their folders, and two folders are two data sets."""

import json
from dataclasses import replace

import pytest
from outcomes import few_shot, leave, transfer

from benchmark.__main__ import main
from benchmark.protocols.launches import write_launch
from benchmark.report.frame import frame
from benchmark.report.own_sets import name_folders, name_in
from benchmark.report.plots import figures
from benchmark.report.summary import accuracies, summarise
from benchmark.report.tables import tables


def own(root, trainer="CoOp", accuracies=(50.0,), origin="", images="1", name="image_folder"):
    """Return outcomes on a folder of images."""
    more = {"config": "few_shot", "data_fingerprint": images}
    found = few_shot(trainer, 4, accuracies, name, **more)
    record = {"DATASET": {"ROOT": root}}
    return [replace(of, result=of.result | {"config": record}, origin=origin) for of in found]


def names(outcomes) -> list[str]:
    return list(dict.fromkeys(outcome.run.dataset for outcome in name_folders(outcomes)))


def test_two_folders_are_two_sets_that_are_not_averaged():
    outcomes = own("/x/birds", origin="b") + own("/y/cars", origin="c", images="2")
    assert names(outcomes) == ["image_folder=birds", "image_folder=cars"]
    listed = accuracies(summarise(frame(outcomes)))
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


def test_folders_of_one_name_are_apart_if_their_images_differ():
    one, same = own("/x/images", origin="a"), own("/y/images", origin="b")
    assert names(one + same) == ["image_folder=images"]
    other = own("/y/images", origin="b", images="2")
    assert names(one + other) == ["image_folder=images (x)", "image_folder=images (y)"]


def test_as_many_folders_around_are_named_as_are_needed():
    roots = ("/a/x/pets", "/b/x/pets", "/x/pets", "/c/pets")
    outcomes = [of for i, root in enumerate(roots) for of in own(root, origin=root, images=str(i))]
    assert names(outcomes) == [
        f"image_folder=pets ({around})" for around in ("a x", "b x", "x", "c")
    ]


def test_the_source_of_a_transfer_is_named():
    outcomes = transfer("CoOp", "image_folder", {"image_folder": 60, "dtd": 40})
    record = {"config": {"DATASET": {"ROOT": "birds"}}}
    source = replace(outcomes[0], result=outcomes[0].result | record)
    found = name_folders([source, *outcomes[1:]])
    assert [(of.run.source, of.run.dataset) for of in found] == [
        ("image_folder=birds", "image_folder=birds"), ("image_folder=birds", "dtd"),
    ]  # fmt: skip


@pytest.mark.parametrize("root", ["", ".", "..", "/", None, 3])
def test_a_folder_without_a_name_keeps_that_of_the_set(root):
    assert names(own(root)) == (["image_folder=3"] if root == 3 else ["image_folder"])


def test_a_single_run_has_the_name_that_was_given_or_of_its_folder(tmp_path):
    record = {"dataset": "ImageFolder", "config": {"DATASET": {"ROOT": "/x/birds$\n"}}}
    assert name_in(tmp_path, record) == r"birds$\n"
    given = tmp_path / "seed1"
    given.mkdir()
    (pets,) = own("/x/birds", name="image_folder=pets")
    write_launch(replace(pets.run, folder=given), None, ())
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
