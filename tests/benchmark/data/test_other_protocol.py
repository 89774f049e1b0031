"""Zero-shot accuracies of open_clip's own table, beside ours."""

import pytest

from benchmark.data.other_protocol import beside, of_open_clip

OURS = [("eurosat", "EuroSAT", 47.84), ("ucf101", "UCF101", 66.75)]


def test_a_backbone_has_the_numbers_of_its_weights_alone():
    here = "eurosat 55.94 (here 47.8)"
    for name in ("ViT-B/16", "open_clip:ViT-B-16/openai"):
        line = beside(name, OURS)
        assert line.endswith(here) and "not compared" in line and "ucf101" not in line
    for name in ("emoji", "open_clip:ViT-B-16/no_such", "open_clip:folder", "ViT-B/999"):
        assert beside(name, OURS) == ""
    assert beside("ViT-B/16", OURS[1:]) == ""


def test_the_table_is_of_architectures_and_weights_that_the_package_has():
    open_clip = pytest.importorskip("open_clip", reason="open_clip_torch is not installed")
    found, known = of_open_clip(), set(open_clip.list_pretrained())
    assert len(found) == 72 and all(0 < x < 100 for row in found.values() for x in row.values())
    quick = {(arch.removesuffix("-quickgelu"), weights) for arch, weights in known}
    assert found.keys() <= known | quick
