"""Tests of the transport maps that `visualize` draws, and of its errors."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.__main__ import main as command
from benchmark.inspect.visualize import (
    Block,
    Map,
    draw_maps,
    groups,
    join,
    main,
    maps_of,
    token_plans,
)
from trainers.prompting import UserError, build_method, sinkhorn
from trainers.prompting.methods.align import ALIGN
from trainers.prompting.transport.released import sinkhorn_released

NODES = {
    "ALIGN": {"M": 2, "N": 2, "DEPTH": 2},
    "MMP": {"VISION_PROMPT_NUMBER": 2, "TEXT_PROMPT_NUMBER": 2, "TEXT_PROMPT_DEPTH": 2},
}


@pytest.mark.parametrize("name", NODES)
def test_the_plans_reproduce_the_logits(tiny_clip, name):
    """Takes one image and one class, because the released form stops for a whole batch."""
    model = build_method(name, NODES[name], tiny_clip, ["annual crop land"]).eval()
    with torch.no_grad():
        for parameter in model.learned().values():
            parameter.add_(torch.randn_like(parameter))
        output = model.output(torch.randn(1, 3, 32, 32))
    image, text = output.image, output.text
    T = token_plans(model, image, text, 0)
    for n in range(2):  # only the words have mass
        assert [*(T[0, n].sum(0) > 0)] == [*(text.s_weights.mass[n, 0] > 0)]
        assert int((T[0, n].sum(0) > 0).sum()) == len(model.text_encoder.words(0, n))
    S = image.z[0] @ text.h[:, 0].T
    cosines = torch.einsum("mpd,nld->mnpl", image.r[0], text.s[:, 0])
    if name == "ALIGN":
        S = S - (T * (1 - cosines)).sum((-2, -1))
        expected = (sinkhorn(1 - S, reg=0.1).plan * S).sum()
    else:
        C = 1 - S + (T * cosines).sum((-2, -1))
        expected = (sinkhorn_released(C, reg=0.1).plan * S).sum()
    torch.testing.assert_close(output.logits[0, 0] / model.logit_scale, expected)


def test_plans_of_other_distances_are_not_drawn(tiny_clip):
    class Euclidean(ALIGN):
        def token_level(self, image, text):
            return 2 * super().token_level(image, text)

    model = build_method("ALIGN", NODES["ALIGN"], tiny_clip, ["cat"])
    model.__class__ = Euclidean
    with pytest.raises(UserError, match="Euclidean has a `token_level` of its own, but no"):
        token_plans(model, None, None, 0)


def test_adjacent_fixed_words_share_a_map():
    torch.manual_seed(0)
    T = torch.rand(16, 6)  # 16 patches, 6 words
    words = ["context 1", "of", "a", "hot", "dog", "type"]
    maps = maps_of(T, words, ["hot", "dog"])
    assert [found.word for found in maps] == ["context 1", "of a", "hot", "dog", "type"]
    for found in maps:
        assert found.values.shape == (4, 4)
        assert float(found.values.mean()) == pytest.approx(1)  # in multiples of an even share
    both = T[:, 1] + T[:, 2]
    assert torch.allclose(maps[1].values.flatten(), 16 * both / both.sum())


def test_many_learned_words_share_a_map():
    words = [*(f"context {i}" for i in range(1, 6)), "hot", "dog", "type", "of"]
    titles = [join(words, places) for places in groups(words, ["hot", "dog"])]
    assert titles == ["context 1 to 5", "hot", "dog", "type of"]
    assert len(groups(words[1:], ["hot", "dog"])) == 4 + 3


def test_classes_and_images_make_a_sheet(runs, tmp_path, capsys):
    output, chosen = tmp_path / "maps.png", ["--class-name", "sea", "forest"]
    assert main(["--model-dir", str(runs / "ALIGN"), "--output", str(output), *chosen]) == 0
    assert re.findall(r"test_(\w+).png against '(.*)'", capsys.readouterr().out) == [
        ("sea_0", "sea"), ("forest_0", "forest")
    ]  # fmt: skip
    assert Image.open(output).width > 500


def test_a_run_without_transport_is_refused(runs):
    with pytest.raises(UserError, match="is of CoOp without transport .* choose a run of ALIGN"):
        main(["--model-dir", str(runs / "CoOp")])


@pytest.mark.slow
def test_a_sheet_has_a_row_for_each_prompt_and_one_hue_on_grey(tmp_path):
    yellow = np.full((8, 8, 3), (1.0, 1.0, 0.0))
    maps = [Map(word, torch.tensor([[0.5, 1.5]] * 2)) for word in ("context 1", "drink")]
    blocks = [Block(yellow, "'drink'", {"prompt 1": maps, "prompt 2": maps})]
    for name, rows in (("one.png", 1), ("two.png", 2), ("one.svg", 1)):
        draw_maps(tmp_path / name, blocks * rows)
    one, two = (Image.open(tmp_path / name).convert("RGB") for name in ("one.png", "two.png"))
    assert two.size[0] == one.size[0] and two.size[1] > 1.7 * one.size[1]
    pixels = np.asarray(one).reshape(-1, 3).astype(int)
    of_image = (pixels == (255, 255, 0)).all(1)
    assert 0.09 < of_image.mean() < 0.12  # one of three columns; the maps are grey
    red, green, blue = pixels[~of_image].T
    assert (blue <= red + 1).all() and (abs(green - blue) <= 3).all() and (red > green + 100).any()
    svg = (tmp_path / "one.svg").read_text()
    assert svg.count("<!-- drink -->") == svg.count("<!-- context 1 -->") == 2


def test_an_own_image_is_drawn_for_its_likeliest_class(runs, tmp_path, capsys):
    path, output = tmp_path / "sea.png", tmp_path / "maps.png"
    Image.new("RGB", (50, 40), (40, 40, 200)).save(path)
    asked = ["--model-dir", str(runs / "ALIGN")]
    assert command(["predict", *asked, "--top", "1", str(path)]) == 0
    name = capsys.readouterr().out.removeprefix(f"{path}: ").rpartition(" ")[0]
    assert main([*asked, "--image", str(path), "--output", str(output)]) == 0
    assert capsys.readouterr().out == f"{output}: {path} against '{name}'\n"
    assert Image.open(output).width > 500


def test_an_unknown_class_is_reported(runs):
    with pytest.raises(UserError, match="no class 'unicorn'"):
        main(["--model-dir", str(runs / "ALIGN"), "--class-name", "unicorn"])
