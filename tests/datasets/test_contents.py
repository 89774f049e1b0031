"""What the files of a data set hold: copies in two parts or classes, and the fingerprint."""

import os
import shutil

import numpy as np
import pytest
from own_images import counts, fill, load
from PIL import Image

from trainers.prompting import UserError


def link(root):
    (root / "test").symlink_to(root / "train")


def copy(root):
    shutil.copytree(root / "train", root / "test")


def copy_one(root):
    fill(root / "test", ant=3, bee=3)
    shutil.copy(root / "train" / "bee" / "bee 01.png", root / "test" / "bee" / "new.png")


def link_one_for_validation(root):
    for part in ("val", "test"):
        fill(root / part, ant=3, bee=3)
    os.link(root / "test" / "ant" / "ant 01.png", root / "val" / "ant" / "ant 07.png")


@pytest.mark.parametrize("double, count", [(link, 6), (copy, 6), (copy_one, 1),
                                           (link_one_for_validation, 1)])  # fmt: skip
def test_an_image_in_two_parts_is_refused(tmp_path, double, count):
    fill(tmp_path / "train", ant=3, bee=3)
    double(tmp_path)
    with pytest.raises(UserError, match=rf"^{count} images of .* are also in another part") as said:
        load(tmp_path)
    assert "\n" not in str(said.value)


def test_images_that_only_begin_alike_or_are_empty_are_no_copies(tmp_path):
    for part in ("train", "test"):
        fill(tmp_path / part, ant=4, bee=4)
        (tmp_path / part / "ant" / "empty.png").touch()
        noise = bytes(9000) + part.encode().ljust(9000) + bytes(9000)
        (tmp_path / part / "bee" / "large.bmp").write_bytes(noise)
        with open(tmp_path / part / "bee" / "sparse.bmp", "wb") as file:
            file.write(part.encode())
            file.truncate(1 << 40)
        (tmp_path / part / "bee" / "late.bmp").write_bytes(bytes(9001) + part.encode().ljust(5))
    assert sum(counts(load(tmp_path))) == 24


def test_the_fingerprint_is_of_names_sizes_and_contents(tmp_path):
    fill(tmp_path / "a", ant=4, bee=4)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    image = tmp_path / "b" / "ant" / "ant 00.png"
    first, then = load(tmp_path / "a").fingerprint, image.stat()
    assert load(tmp_path / "b").fingerprint == first
    whole = bytearray(image.read_bytes())
    whole[-20] ^= 1
    image.write_bytes(whole)
    os.utime(image, ns=(then.st_atime_ns, then.st_mtime_ns))
    other = load(tmp_path / "b").fingerprint
    image.rename(image.with_name("ant 99.png"))
    assert len({first, other, load(tmp_path / "b").fingerprint}) == 3


def test_an_image_in_two_classes_is_reported(tmp_path, capsys):
    for part in ("train", "test"):
        fill(tmp_path / part, ant=3, bee=3)
    shutil.copy(tmp_path / "test" / "ant" / "ant 01.png", tmp_path / "test" / "bee" / "x.png")
    load(tmp_path)
    assert "has 1 images twice in the same part, such as" in capsys.readouterr().out


def test_transparent_images_are_counted(tmp_path, capsys):
    fill(tmp_path, ant=4, bee=4)
    Image.new("RGBA", (8, 8), (9, 9, 9, 255)).save(tmp_path / "bee" / "opaque.png")
    (tmp_path / "bee" / "damaged.png").write_bytes(b"no image")
    load(tmp_path)
    assert "are transparent" not in capsys.readouterr().out
    folder = tmp_path / "ant"
    Image.new("RGB", (8, 8)).save(folder / "0.png", transparency=(0, 0, 0))
    Image.new("RGBA", (8, 8), (1, 2, 3, 254)).save(folder / "1.webp", lossless=True)
    Image.new("P", (8, 8)).save(folder / "2.png", transparency=0)
    Image.new("LA", (8, 8)).save(folder / "3.png")
    load(tmp_path)
    (line,) = (x for x in capsys.readouterr().out.splitlines() if "are transparent" in x)
    assert line.startswith(f"Note: 4 of 14 images are transparent, such as '{folder}")
    assert line.endswith("put them on the background that you mean")


def test_images_without_compression_differ_by_their_beginning(tmp_path):
    """In the middle, images of one camera or drawing may be the same."""
    for name in ("a", "b"):
        fill(tmp_path / name, ant=4, bee=4)
        pixels = np.full((100, 100, 3), 255, "uint8")
        pixels[-1] = ord(name)  # the first row of the file
        Image.fromarray(pixels).save(tmp_path / name / "ant" / "new.bmp")
    for path in (tmp_path / "a").rglob("*.png"):
        shutil.copy(path, tmp_path / "b" / path.relative_to(tmp_path / "a"))
    assert load(tmp_path / "a").fingerprint != load(tmp_path / "b").fingerprint
