"""Files of features: what is written is read; broken, hostile and unlike ones get one sentence."""

import json
import os
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from feature_files import NAMES, TEMPLATE, content, write
from paths import ROOT
from safetensors.torch import load_file, save_file

from trainers.prompting.checkpoint.saved import Saved
from trainers.prompting.errors import UserError
from trainers.prompting.method import Method
from trainers.prompting.storage.features import (
    HEADER,
    differing_traits,
    read_features,
    read_header,
    write_features,
)


def test_what_is_written_is_read(tmp_path):
    tensors, header = content()
    header |= {"images": [f"{i}.jpg" for i in range(24)], "dataset": "Own", "transform": "none"}
    views = {"views": torch.randn(2, 3, 16).half(), "views_of": torch.tensor([4, 0, 2])}
    views |= {"sentence/s": torch.eye(4, 16), "sentence_of/s": torch.tensor([1, 0, 2, 1])}
    path = write(tmp_path / "a.safetensors", views, header)
    found = read_features(path)
    assert torch.equal(found.image, tensors["image"]) and found.views.dtype == torch.float16
    assert found.classnames == NAMES and found.split == header["split"]
    assert found.places[f"{path}/7.jpg"] == 7 and found.dataset == "Own"
    assert torch.equal(found.sentences(TEMPLATE), tensors[f"text/{TEMPLATE}"])
    rows, of = found.sets["s"]
    assert torch.equal(rows, views["sentence/s"]) and of.tolist() == [1, 0, 2, 1]
    assert read_header(path)["clip"] == "ViT-B/16"
    first = path.read_bytes()
    write(path, views, dict(reversed(header.items())))
    assert path.read_bytes() == first and os.stat(path).st_mode & 0o777 == 0o644


def test_normalised_text_takes_its_factor(tmp_path):
    path = write(tmp_path / "a.safetensors", header={"text_norm": 7.0}, normalised=True)
    norms = read_features(path).sentences(TEMPLATE).norm(dim=-1)
    torch.testing.assert_close(norms, torch.full((3,), 7.0))


def test_the_page_writes_files_and_converts_an_npz(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "features.md").read_text("utf-8")
    names, (first, other) = {}, re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    exec(first, names)
    assert read_features("mine.safetensors").clip == "my encoder"
    tensors, header = content()
    arrays = {name: value.numpy() for name, value in tensors.items()}
    np.savez("mine.npz", **arrays, header=json.dumps(header))
    exec(other, names)
    assert Path("mine.safetensors").read_bytes() == write(tmp_path / "a.safetensors").read_bytes()


def test_a_changed_file_is_read_again(tmp_path):
    path = tmp_path / "a.safetensors"
    first = read_features(write(path))
    assert read_features(path) is first
    write(path, seed=1)
    os.utime(path, ns=(1, 1))
    assert not torch.equal(read_features(path).image, first.image)


OTHER_ENCODERS = {
    "the same": ({}, {}, None),
    "half": ({"half": True}, {}, None),
    "other classes": ({"seed": 1}, {"classnames": ["lake", "hill", "town"]}, None),
    "spelling": ({"seed": 1}, {"classnames": ["lake", "hill", "annual_crop"]}, "'annual crop'"),
    "text": ({"seed": 1}, {}, "other text features of 'annual crop'"),
    "scale": ({}, {"logit_scale": 20.0}, "logit_scale 10.0, not 20.0"),
    "normalised": ({"normalised": True}, {}, "normalised False, not True"),
    "width": ({"D": 8}, {}, "width 16, not 8"),
}


@pytest.mark.parametrize("own, header, why", OTHER_ENCODERS.values(), ids=OTHER_ENCODERS)
def test_a_checkpoint_knows_its_encoder(tmp_path, own, header, why):
    saved = Saved(features=read_features(write(tmp_path / "a.safetensors")).traits())
    tensors, usual = content(own.get("normalised", False), own.get("seed", 0))
    for name, value in tensors.items():
        if value.is_floating_point():
            value = value[:, : own.get("D", 16)]
            tensors[name] = value.half() if "half" in own else value
    now = read_features(write(tmp_path / "b.safetensors", tensors, usual | header))
    here = Saved(features=now.traits())
    Saved().check_loaded(here, Method)  # trained on images
    with nullcontext() if why is None else pytest.raises(UserError, match=why):
        saved.check_loaded(here, Method)


@pytest.mark.parametrize("name", ["rn50", "vit_b_32", "vit_l_14"])
def test_the_files_in_assets(name):
    found = read_features(ROOT / "assets" / f"whurs19_{name}.safetensors")
    assert [len(found.split[part]) for part in ("train", "val", "test")] == [501, 202, 302]
    z = found.image.float()
    right = (z @ found.sentences("average").T).argmax(1) == found.label
    expected = {"rn50": 71.54, "vit_b_32": 81.29, "vit_l_14": 85.47}[name]
    assert 100 * float(right.float().mean()) == pytest.approx(expected, abs=0.1)  # one image


E = torch.eye(24, 16)
OTHER = "it is damaged or of another kind ("
BAD_TENSORS = {
    "nan": ({"image": torch.full((24, 16), torch.nan)}, "'image' has numbers that are not finite"),
    "infinite": ({f"text/{TEMPLATE}": torch.full((3, 16), torch.inf)}, "has numbers that are not"),
    "zeros": ({"image": E}, "'image' has numbers that are not finite, or only zeros, in row 16"),
    "another width": ({f"text/{TEMPLATE}": torch.ones(3, 8)}, "shape (3, 8), not (3, 16), with 24"),
    "classes": ({f"text/{TEMPLATE}": torch.ones(4, 16)}, "shape (4, 16), not (3, 16)"),
    "axes": ({"image": torch.ones(2, 12, 16)}, OTHER),
    "labels": ({"label": torch.arange(24) % 4}, "has numbers from 0 to 3, but they must be 0 to 2"),
    "negative": ({"label": torch.arange(24) % 3 - 1}, "'label' has numbers from -1 to 1"),
    "fewer labels": ({"label": torch.arange(3)}, "'label' has the shape (3,), not (24,)"),
    "a set alone": ({"sentence/a": torch.ones(3, 16)}, OTHER + "KeyError 'sentence_of/a')"),
    "a set's rows": (
        {"sentence/a": torch.ones(3, 16), "sentence_of/a": torch.arange(4) % 3},
        "'sentence_of/a' has the shape (4,), not (3,)",
    ),
    "a set's classes": (
        {"sentence/a": torch.ones(3, 16), "sentence_of/a": torch.tensor([0, 1, 3])},
        "'sentence_of/a' has numbers from 0 to 3, but they must be 0 to 2",
    ),
    "views": ({"views": torch.ones(2, 3, 16), "views_of": torch.tensor([0, 1])}, "not (3,), with"),
    "width of views": (
        {"views": torch.ones(2, 1, 8), "views_of": torch.tensor([0])}, "(2, 1, 8), not (2, 1, 16)"
    ),
    "view of": ({"views": torch.ones(2, 1, 16), "views_of": torch.tensor([24])}, "must be 0 to 23"),
}  # fmt: skip
BAD_HEADERS = {
    "not normalised": ({"normalised": True}, "'image' has a norm other than 1, although normalise"),
    "template": ({"template": "a {}."}, "the template 'a {}.', but it has text features of 'a pho"),
    **{
        f"scale {x}": ({"logit_scale": x}, f"the 'logit_scale' {x}, not a positive factor")
        for x in (0, -1.0, float("inf"), float("nan"))
    },
    "a word": ({"logit_scale": "1"}, OTHER),
    "outside": ({"split": {"train": [24], "val": [], "test": []}}, "train of its split' has numbe"),
    "before": ({"split": {"train": [0], "val": [-1], "test": []}}, "val of its split' has numbers"),
    "both": ({"split": {"train": [0, 1], "val": [], "test": [1]}}, "row 1 is for training and in"),
    "both, val": ({"split": {"train": [0], "val": [0], "test": [1]}}, "for training and in val of"),
    "no split": ({"split": []}, OTHER),
    "names": ({"images": ["a.jpg"]}, "its header has 1 different names of 24 images"),
    "same names": ({"images": ["a.jpg"] * 24}, "its header has 1 different names of 24 images"),
}  # fmt: skip


def refused(path):
    with pytest.raises(UserError) as error:
        read_features(path)
    said = str(error.value)
    assert str(path) in said and len(said) < 500 and "\n" not in said and "Traceback" not in said
    return said


@pytest.mark.parametrize("tensors, why", BAD_TENSORS.values(), ids=BAD_TENSORS)
def test_tensors_that_do_not_fit(tmp_path, tensors, why):
    usual, header = content()
    save_file(usual | tensors, tmp_path / "a.safetensors", {HEADER: json.dumps(header)})
    assert why in refused(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="is not written, as .*" + re.escape(why)):
        write_features(tmp_path / "b.safetensors", usual | tensors, header)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("own, why", BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_headers_that_do_not_fit(tmp_path, own, why):
    tensors, header = content()
    save_file(tensors, tmp_path / "a.safetensors", {HEADER: json.dumps(header | own)})
    assert why in refused(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="is not written, as .*" + re.escape(why)):
        write_features(tmp_path / "b.safetensors", tensors, header | own)


def test_norms_of_normalised_features(tmp_path):
    """They are 1, but for 0.02; of views, too."""
    tensors, header = content(normalised=True)
    tensors |= {"views": tensors["image"][None, :2], "views_of": torch.tensor([0, 2])}
    for name, row, factor, why in (
        ("image", 2, 1.018, None), ("image", 2, 1.022, "'image' .* in row 2"),
        ("views", 1, 0.982, None), ("views", 1, 0.978, "'views' .* in row 1"),
    ):  # fmt: skip
        changed = tensors[name].clone()
        changed.view(-1, 16)[row] *= factor
        with nullcontext() if why is None else pytest.raises(UserError, match=why):
            write_features(tmp_path / "a.safetensors", tensors | {name: changed}, header)


def test_rows_are_numbered_over_all_pieces(tmp_path):
    image, text = torch.ones(65_539, 2), torch.eye(2)[[0, 1, 0]]
    image[65_537] = 0
    more = {"image": image, "label": torch.zeros(65_539).long(), f"text/{TEMPLATE}": text}
    with pytest.raises(UserError, match="'image' has numbers .* in row 65537 "):
        write_features(tmp_path / "a.safetensors", more, content()[1])


def test_traits_are_compared_within_the_rounding_of_float16():
    one = torch.eye(3)
    traits = {"width": 3, "normalised": True, "logit_scale": 100.0, "text": {"{}": {"a": one[0]}}}
    half = 2**-10
    for change, found in (
        ({"logit_scale": 100.05}, None), ({"logit_scale": 99.8}, "logit_scale 100.0, not 99.8"),
        ({"width": 4}, "width 3, not 4"), ({"normalised": False}, "normalised True, not False"),
        ({"text": {"{}.": {"a": one[1]}}}, None), ({"text": {"{}": {"b": one[1]}}}, None),
        ({"text": {"{}": {"a": one[1]}}}, "other text features of 'a'"),
        ({"text": {"{}": {"a": one[0] * (1 + half)}}}, None),
        ({"text": {"{}": {"a": one[0] * (1 + 2 * half)}}}, "other text features of 'a'"),
    ):  # fmt: skip
        assert differing_traits(traits, traits | change) == found


def test_headers_that_lack_a_key(tmp_path):
    tensors, header = content()
    del header["split"]
    save_file(tensors, tmp_path / "a.safetensors", {HEADER: json.dumps(header)})
    assert OTHER + "KeyError 'split'" in refused(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="KeyError 'split'"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("lacking, why", [
    ("image", OTHER + "KeyError 'image')"), ("label", OTHER + "KeyError 'label')"),
    (f"text/{TEMPLATE}", "but it has text features of none"),
])  # fmt: skip
def test_files_that_lack_a_tensor(tmp_path, lacking, why):
    tensors, header = content()
    del tensors[lacking]
    save_file(tensors, tmp_path / "a.safetensors", {HEADER: json.dumps(header)})
    assert why in refused(tmp_path / "a.safetensors")


def test_files_that_are_broken_or_something_else(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match=r"There is no file of features '.*': check the path"):
        read_features(path)
    with pytest.raises(UserError, match="There is no file of features"):
        read_features(tmp_path)
    whole = write(path).read_bytes()
    for content_ in (b"", b"x", whole[:100], whole[:-4], b"\xff" * 64):
        path.write_bytes(content_)
        os.utime(path, ns=(len(content_), 1 + len(content_)))
        assert "it is damaged or of another kind" in refused(path)
    tensors, header = content()
    for text in ("1", "{"):
        save_file(tensors, path, {HEADER: text})
        assert OTHER in refused(path)
    save_file(tensors, path)
    assert OTHER + "KeyError 'header'" in refused(path)
    assert load_file(path).keys() == tensors.keys()  # it is a sound safetensors file
