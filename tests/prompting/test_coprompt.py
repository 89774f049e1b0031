"""CoPrompt: its sentences about the classes and its second view."""

import dataclasses
import json

import pytest
import torch
from newer import IMAGES, LABELS, NAMES, build

from trainers.prompting import UserError
from trainers.prompting.teacher import read_sentences


def test_coprompt_draws_one_sentence_for_all_classes_in_each_step(tiny_clip):
    about = {name: [f"a photo of a {name}.", f"many {name}.", f"a bad {name}."] for name in NAMES}
    method = build("CoPrompt", tiny_clip, SENTENCES=about)
    second = torch.randn(4, 3, 32, 32)

    def losses(count):
        torch.manual_seed(3)
        found = [method.train().losses([IMAGES, second], LABELS) for _ in range(count)]
        return [terms["kd_text"].item() for terms in found]

    drawn = losses(12)
    h = method.output(IMAGES).text.h[0].detach()
    possible = [8 * (1 - (h * h0).sum(-1).mean()).item() for h0 in method.teacher.h_each]
    nearest = [min(range(3), key=lambda i: abs(possible[i] - value)) for value in drawn]
    assert set(nearest) == {0, 1, 2}
    assert all(abs(possible[i] - v) < 1e-4 for i, v in zip(nearest, drawn, strict=True))
    assert losses(12) == drawn


def test_coprompt_compares_with_the_second_view(tiny_clip):
    method = build("CoPrompt", tiny_clip, SENTENCES={name: [name] for name in NAMES}, W=1.0)
    other = torch.randn(4, 3, 32, 32)
    first = method.train().losses([IMAGES, IMAGES], LABELS)
    second = method.losses([IMAGES, other], LABELS)
    assert first["ce"] == second["ce"] and first["kd_image"] != second["kd_image"]
    z, z0 = method.output(IMAGES).image.z[:, 0], method.teacher.z(other)
    assert second["kd_image"].item() == pytest.approx(
        (1 - (z * z0).sum(-1).mean()).item(), abs=1e-5
    )
    method.settings = dataclasses.replace(method.settings, DISTILL="mse")
    squared = method.losses([IMAGES, other], LABELS)["kd_image"]
    assert squared.item() == pytest.approx((z - z0).square().mean().item(), abs=1e-5)


def test_sentences_are_found_by_names_with_spaces_or_underscores(tmp_path):
    path = tmp_path / "about.json"
    path.write_text(json.dumps({"sea_or_lake": ["blue", "wet"], "forest": ["green", "dark"]}))
    assert read_sentences(str(path), ["forest", "sea_or lake"]) == [
        ["green", "blue"],
        ["dark", "wet"],
    ]


def test_sentences_about_classes_that_are_not_named():
    about = {"forest": ["green", "dark"], "*": ["a {}.", "the {}."]}
    assert read_sentences(about, ["forest", "blue sea"]) == [
        ["green", "a blue sea."],
        ["dark", "the blue sea."],
    ]
    embedded = read_sentences("emoji", ["heart", "a class that nobody has seen"])
    assert embedded[0] == ["a red heart.", "a photo of a a class that nobody has seen."]


SENTENCES = {
    "none": (None, "set SENTENCES to a JSON file"),
    "no file": ("nowhere.json", "'nowhere.json' cannot be read .*: SENTENCES needs one"),
    "no JSON": ("{", "cannot be read .*: SENTENCES needs one"),
    "deep": ("[" * 200_000, "cannot be read .RecursionError"),
    "no object": ("[1]", "is a list, not an object: SENTENCES"),
    "a class": ({"forest": ["green"]}, "no list of sentences for the class 'sea'"),
    "no list": ({"forest": "green", "sea": "b"}, "no list of sentences for the class 'forest'"),
    "lengths": (
        {"forest": ["green", "dark"], "sea": ["blue"]},
        "has 2 sentences for 'forest' but 1 for 'sea': give all classes the same number",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_invalid_sentences_are_refused(tmp_path, case):
    content, part = SENTENCES[case]
    source = content
    if content and source != "nowhere.json":
        source = str(tmp_path / "about.json")
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "about.json").write_text(text)
    with pytest.raises(UserError, match=part) as error:
        read_sentences(source, ["forest", "sea"])
    assert "\n" not in str(error.value)
