"""Names of groups of data sets, wherever data sets are named."""

import pytest

from benchmark.__main__ import main
from benchmark.data.check_data import checked_datasets
from benchmark.data.download import TABLE
from benchmark.protocols.configs import GROUPS, with_groups
from recipe.configs import read_tree

NAMES = {"all": 11, "ten": 10, "imagenet_variants": 4, "medical": 11}


def test_groups_are_of_the_public_data_sets(monkeypatch):
    assert {name: len(members) for name, members in GROUPS.items()} == NAMES
    public = set(checked_datasets())
    assert {name for group in GROUPS.values() for name in group} == public and len(public) == 26
    assert set(GROUPS["all"]) - set(GROUPS["ten"]) == {"imagenet"}
    assert not public & GROUPS.keys()  # no data set has the name of a group
    assert with_groups(["dtd", "ten", "emoji", "dtd"])[:3] == ["dtd", "caltech101", "oxford_pets"]
    assert len(with_groups(["dtd", "ten", "emoji"])) == 11


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["few_shot", "ten", "--shots", "1"], 10),
        (["base2new", "all", "eurosat"], 22),  # both halves
        (["domain_generalization", "imagenet_variants", "--shots", "1"], 5),  # and the source
    ],
)
def test_protocols_take_groups(words, count, tmp_path, capsys):
    more = ["--trainers", "ZeroshotCLIP", "--seeds", "1", "--output", str(tmp_path), "--dry-run"]
    more[:0] = ["--root", str(tmp_path)]
    assert main([*words, *more]) == 0
    out = capsys.readouterr().out
    assert out.count("# run: ") == count
    names = with_groups(word for word in words[1:] if word in (*GROUPS, "eurosat"))
    source = ["imagenet"] * words[0].startswith("domain")
    said = f"# missing for {count} runs: {' '.join([*source, *names])} not in '{tmp_path}': "
    group = " ".join([words[1], *source])
    assert f"{said}`python -m benchmark download {group} --root {tmp_path}` gets them" in out
    more[-1:] = ["--dry-run", "--ood", "imagenet_variants"]
    assert main(["few_shot", "emoji", *more]) == 0
    said = capsys.readouterr().out.replace("'\"'\"'", "")  # bash's quotes
    assert "[ImageNetV2, ImageNetSketch, ImageNetA, ImageNetR]" in said


def test_data_commands_take_groups(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    assert main(["check-data", "imagenet_variants", "--root", str(tmp_path / "data")]) == 1
    assert "0 of 4 found" in capsys.readouterr().out
    assert {name for group in GROUPS.values() for name in group} == {*read_tree(TABLE)} - {
        "grocery", "whurs19-images"
    }  # fmt: skip
