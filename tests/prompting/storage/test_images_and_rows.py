"""Keys and transparency of image files, files written whole, and columns of predictions."""

import pytest
import torch
from PIL import Image

from trainers.prompting import UserError
from trainers.prompting.images.image_key import EMPTY, MOST, PIECE, image_key
from trainers.prompting.images.transparency import is_transparent, transparency_note
from trainers.prompting.record.predictions import Predictions
from trainers.prompting.storage.files import damaged_part, read_json, write_whole


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
    with pytest.raises(UserError, match="'.*' cannot be read .Is a directory.: restore"):
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
