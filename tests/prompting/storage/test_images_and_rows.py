"""Keys and transparency of image files, and checks of rows of features, at their bounds."""

import math

import pytest
import torch
from PIL import Image

from trainers.prompting import UserError
from trainers.prompting.images.image_key import EMPTY, MOST, PIECE, image_key
from trainers.prompting.images.transparency import is_transparent, transparency_note
from trainers.prompting.record.predictions import Predictions
from trainers.prompting.storage.feature_checks import (
    APART,
    HALF,
    KEYS,
    ROWS,
    Flaw,
    check_content,
    check_header,
    same_rows,
)
from trainers.prompting.storage.features import differing_traits
from trainers.prompting.storage.files import damaged_part, read_file, read_json, write_whole


def test_keys_of_image_files(tmp_path):
    def key(content, name="a.jpg"):
        (tmp_path / name).write_bytes(content)
        return image_key(str(tmp_path / name))

    middle = bytes(range(256)) * (PIECE // 256)
    large = b"a" * 5000 + middle + b"b" * 5000
    assert key(b"") == EMPTY and key(b"x") != key(b"y") and key(b"xy") != key(b"x")
    assert key(large) == key(b"c" * 5000 + middle + b"d" * 5000)  # from the middle
    for place in (5000, 5000 + PIECE - 1):  # the first and the last byte of the middle
        assert key(large) != key(large[:place] + b"!" + large[place + 1 :])
    for place in (4999, 5000 + PIECE):
        assert key(large) == key(large[:place] + b"!" + large[place + 1 :])
    assert key(large, "a.BMP") != key(b"c" + large[1:], "a.BMP")
    assert key(middle) != key(middle[:-1] + b"!") and -(2**63) <= key(large) < 2**63
    assert MOST == 16 * 2**20
    with pytest.raises(UserError, match="'.*' cannot be read .it is not a regular file.: restore"):
        image_key(str(tmp_path))


def test_transparent_images_are_counted(tmp_path):
    def image(name, *, mode="RGBA", colour=(1, 2, 3, 255), **more):
        Image.new(mode, (2, 2), colour).save(tmp_path / name, **more)
        return str(tmp_path / name)

    opaque = [
        image("a.png"),
        image("b.png", mode="RGB", colour=(0, 0, 0)),
        image("c.jpg", mode="RGB", colour=(0, 0, 0)),
        str(tmp_path / "none.png"),
        str(tmp_path),
    ]
    clear = [
        image("d.png", colour=(1, 2, 3, 254)),
        image("e.png", mode="LA", colour=(1, 0)),
        image("f.png", mode="RGB", colour=(0, 0, 0), transparency=(0, 0, 0)),
    ]
    assert not any(map(is_transparent, opaque)) and all(map(is_transparent, clear))
    assert transparency_note(opaque) == ""
    said = transparency_note([*opaque, *clear])
    assert said.startswith(f"Note: 3 of 8 images are transparent, such as '{clear[0]}': the CLIP")


def test_rows_are_the_same_within_the_rounding_of_float16():
    one = torch.eye(3)
    assert same_rows(one, one * (1 + HALF)) and not same_rows(one, one * (1 + 2 * HALF))
    other = one.clone()
    other[2, 0] = 0.01
    assert not same_rows(one, other)
    traits = {"width": 3, "normalised": True, "logit_scale": 100.0, "text": {"{}": {"a": one[0]}}}
    assert differing_traits(traits, traits | {"logit_scale": 100.05}) is None
    assert differing_traits(traits, traits | {"logit_scale": 99.8}) == "logit_scale 100.0, not 99.8"
    assert differing_traits(traits, traits | {"width": 4}) == "width 3, not 4"
    assert differing_traits(traits, traits | {"normalised": False}) == "normalised True, not False"
    assert differing_traits(traits, traits | {"text": {"{}.": {"a": one[1]}}}) is None
    assert differing_traits(traits, traits | {"text": {"{}": {"b": one[1]}}}) is None
    changed = traits | {"text": {"{}": {"a": one[1]}}}
    assert differing_traits(traits, changed) == "other text features of 'a'"


HEADER = {
    "classnames": ["a", "b"], "split": {"train": [0], "val": [1], "test": [1, 2]},
    "logit_scale": 100.0, "normalised": True, "template": "{}", "clip": "CLIP",
}  # fmt: skip
TENSORS = {"image": torch.eye(4)[:3], "label": torch.tensor([0, 1, 1]), "text/{}": torch.eye(4)[:2]}
VIEWS = {"views": torch.eye(4)[None, :2], "views_of": torch.tensor([0, 2])}
SETS = {"sentence/s": torch.eye(4)[:3], "sentence_of/s": torch.tensor([1, 0, 1])}
# Keys of the header with values that are valid and values that are not.
VALUES = {
    "classnames": ([["a", "b"]], [["a"], ["a", " "], ["a", 1], "ab"]),
    "split": (
        [{"train": [], "val": [], "test": []}],
        [{"train": [], "val": []}, {"train": [True], "val": [], "test": []}, [],
         {"train": (0,), "val": [], "test": []}],
    ),
    "logit_scale": ([1, 1e-9, 1e300], [0, -1.0, math.inf, math.nan, True, "1"]),
    "normalised": ([True, False], [1, None]),
    "template": (["{}"], [1, "\x1b"]),
    "clip": (["x"], ["", " ", 1]),
    "dataset": ([""], [1]),
    "made_of": ([""], [None]),
    "sentence_files": ([{}, {"a": "b"}], [[], {"a": 1}]),
    "images": ([[], ["a"]], [[1], "a"]),
}  # fmt: skip


@pytest.mark.parametrize("key", VALUES)
def test_what_values_of_a_header_must_be(key):
    valid, wrong = VALUES[key]
    for value in valid:
        assert check_header(HEADER | {key: value})[key] == value
    for value in wrong:
        with pytest.raises(Flaw, match=f"for '{key}', which is not {KEYS[key][1][:20]}"):
            check_header(HEADER | {key: value})


def test_the_factor_of_text_needs_normalised_features():
    assert check_header(HEADER | {"text_norm": 2.0})["text_norm"] == 2.0
    assert check_header(HEADER | {"text_norm": 1, "normalised": False})["text_norm"] == 1
    with pytest.raises(Flaw, match="has a 'text_norm', but"):
        check_header(HEADER | {"text_norm": 2.0, "normalised": False})


def with_row(name, row, value):
    tensors = TENSORS | VIEWS | SETS
    changed = tensors[name].clone()
    changed.view(-1, *changed.shape[-1 if changed.dim() > 1 else 1 :])[row] = value
    return tensors | {name: changed}


def split(**parts):
    return HEADER | {"split": HEADER["split"] | parts}


@pytest.mark.parametrize(
    ("tensors", "header", "flaw"),
    [
        (TENSORS, HEADER, None),
        (TENSORS | VIEWS | SETS, HEADER, None),
        (with_row("image", 2, torch.eye(4)[2] * (1 + 0.9 * APART)), HEADER, None),
        (with_row("image", 2, torch.eye(4)[2] * (1 + 1.1 * APART)), HEADER, "'image' .* in row 2"),
        (with_row("views", 1, torch.eye(4)[2] * (1 - 1.1 * APART)), HEADER, "'views' .* in row 1"),
        (with_row("text/{}", 0, torch.zeros(4)), HEADER, "'text/{}' has numbers .* in row 0"),
        (with_row("image", 1, math.nan), HEADER | {"normalised": False}, "'image' .* in row 1"),
        (with_row("label", 2, 2), HEADER, "'label' has numbers from 0 to 2, but .* 0 to 1"),
        (with_row("label", 2, -1), HEADER, "'label' has numbers from -1 to 1"),
        (with_row("views_of", 1, 3), HEADER, "'views_of' has numbers from 0 to 3, .* 0 to 2"),
        (with_row("views_of", 1, 0), HEADER, "'views_of' has a row twice"),
        (with_row("sentence_of/s", 1, 1), HEADER, "no sentence of the class 'a'"),
        (with_row("sentence_of/s", 1, 2), HEADER, "'sentence_of/s' has numbers from 1 to 2"),
        (TENSORS | {"label": torch.ones(3).bool()}, HEADER, "'label' is of torch.bool"),
        (TENSORS | {"image": torch.ones(3, 4).long()}, HEADER, "'image' is of torch.int64"),
        (TENSORS, split(test=[1, 3]), "test of its split' has numbers from 1 to 3"),
        (TENSORS, split(test=[2, 2]), "test of its split has a row twice"),
        (TENSORS, split(val=[0]), "row 0 is for training and in val"),
        (TENSORS, split(test=[0]), "row 0 is for training and in test"),
        (TENSORS, split(val=[2], test=[2]), None),
        (TENSORS, HEADER | {"images": ["a", "b/c", "d"]}, None),
        (TENSORS, HEADER | {"images": ["a", "b"]}, "2 different names of 3 images"),
        (TENSORS, HEADER | {"images": ["a", "b", "b"]}, "2 different names of 3 images"),
        (TENSORS, HEADER | {"images": ["a", "b", "/c"]}, "the image name '/c'"),
        (TENSORS, HEADER | {"images": ["a", "b", "x/../../c"]}, "the image name 'x/../../c'"),
        (TENSORS, HEADER | {"images": ["a", "b", " "]}, "the image name ' '"),
        (TENSORS, HEADER | {"template": "a {}"}, "has the template 'a {}', but"),
        (TENSORS, HEADER | {"classnames": ["a_b", "a b"]}, "classes 0 and 1 both read 'a b'"),
        (TENSORS | {"views": VIEWS["views"]}, HEADER, "do not come together"),
        (TENSORS | {"sentence/s": torch.eye(4)}, HEADER, "'sentence/s' has no 'sentence_of/"),
    ],
)
def test_tensors_and_header_fit_together(tensors, header, flaw):
    if flaw is None:
        assert check_content(tensors, header)["clip"] == "CLIP"
    else:
        with pytest.raises(Flaw, match=flaw):
            check_content(tensors, header)


def test_rows_are_numbered_over_all_pieces():
    image = torch.nn.functional.normalize(torch.ones(ROWS + 3, 2), dim=1)
    image[ROWS + 1] = 0
    more = {"image": image, "label": torch.zeros(ROWS + 3).long(), "text/{}": torch.eye(2)}
    with pytest.raises(Flaw, match=f"'image' has numbers .* in row {ROWS + 1}$"):
        check_content(more, HEADER)


def test_files_are_written_whole_and_read(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, '{"é": 1}')
    assert read_json(path, "do") == {"é": 1} and [*tmp_path.iterdir()] == [path]
    write_whole(path, b"\xef\xbb\xbf{}")
    assert read_json(path, "do") == {} and damaged_part(path) is None
    for content, said in (("[]", "is a list, not an object: do"), ("{", "cannot be read .*: do")):
        write_whole(path, content)
        with pytest.raises(UserError, match=said):
            read_json(path, "do")
    with pytest.raises(OSError) as error:
        write_whole(tmp_path / "no" / "a", "")
    assert error.value.filename == str(tmp_path / "no" / "a")
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path)


@pytest.mark.parametrize("is_new", [False, True])
def test_columns_over_both_halves(is_new):
    found = Predictions(scale=10.0, new=is_new)
    found.temperature, found.order = 2.0, [1, 0]
    own, others = torch.randn(2, 3), torch.randn(2, 4)
    labels = torch.tensor([2, 0])
    found.add_images(["f/b.png", "f/a/c.png"], labels)
    found.add_logits(own, others)
    columns = found.columns()
    assert columns["image"] == ["a/c.png", "b.png"] and columns["turn"].tolist() == [1, 0]
    own, others, labels = own.flip(0), others.flip(0), labels.flip(0)
    both = torch.cat([others, own] if is_new else [own, others], 1)
    wanted, p = labels + 4 * is_new, both.softmax(1)
    assert columns["joint_label"].tolist() == wanted.tolist()
    assert columns["joint_prediction"].tolist() == both.argmax(1).tolist()
    base = p[:, : 4 if is_new else 3].amax(1)
    own_p = own.softmax(1)
    for name, value in (
        ("joint_probability", p.amax(1)),
        ("base_probability", base),
        ("joint_label_log_probability", p[torch.arange(2), wanted].log()),
        ("joint_scaled_probability", (both / 2).softmax(1).amax(1)),
        ("label_log_probability", own_p[torch.arange(2), labels].log()),
        ("scaled_probability", (own / 2).softmax(1).amax(1)),
        ("mcm", (own / 10).softmax(1).amax(1)),
    ):
        torch.testing.assert_close(columns[name].float(), value, rtol=2e-3, atol=1e-4)
    assert columns["top"].tolist() == own.argsort(1, descending=True).tolist()
    assert columns["label"].tolist() == labels.tolist()
