"""Packs that are damaged, forged or made to do harm are refused."""

import io
import os
import pickle
import stat
import struct
import warnings
import zipfile

import numpy as np
import pytest
from packing import PREDICTIONS, RECORD, RUN, record, with_manifest

from benchmark.__main__ import main
from benchmark.pack.pack import as_zip
from benchmark.report import packs
from recipe import zips


def named(name):
    """Add a file of this name."""
    return lambda files: as_zip(files | {name: b"x"})


def member(change, name="more", content=b"x"):
    """Add a member whose zip entry is altered by `change`."""

    def changed(files):
        stream = io.BytesIO(as_zip(files))
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
            info = zipfile.ZipInfo(name)
            change(info)
            with warnings.catch_warnings():  # about a repeated name
                warnings.simplefilter("ignore")
                archive.writestr(info, content)
        return stream.getvalue()

    return changed


def replaced(name, content):
    """Replace the content of a file, with a manifest that fits it."""
    return lambda files: as_zip(with_manifest(files | {name: content}))


def without(name):
    return lambda files: as_zip({n: content for n, content in files.items() if n != name})


def manifest(change):
    return lambda files: as_zip(with_manifest(files, change))


def only(content):
    return lambda files: as_zip(files | {"manifest.json": content})


def flipped(files):
    """Flip a bit of a compressed member."""
    content = bytearray(as_zip(files))
    content[content.index(PREDICTIONS.encode()) + len(PREDICTIONS) + 40] ^= 1
    return bytes(content)


def listed_as(place, byte):
    """Change a byte in the central directory's entry of the first member."""

    def changed(files):
        content = bytearray(as_zip(files))
        content[content.index(b"PK\1\2") + place] = byte
        return bytes(content)

    return changed


def lying(files):
    """Make both headers of a large member claim that it has 100 bytes."""
    content = bytearray(replaced(RECORD, b" " * 2**23 + b"{}")(files))
    local, central = content.index(RECORD.encode()), content.rindex(RECORD.encode())
    struct.pack_into("<L", content, local - 30 + 22, 100)
    struct.pack_into("<L", content, central - 46 + 24, 100)
    return bytes(content)


def ending(size):
    """Change the size of the central directory in the end record of the zip."""

    def changed(files):
        content = as_zip(files)
        fields = list(zips.END.unpack(content[-22:]))
        fields[5] = size
        return content[:-22] + zips.END.pack(*fields)

    return changed


def zip64(files):
    """Replace the end record by one of Zip64, which allows any size."""
    content = as_zip(files)
    _, *numbers, count, size, start, _ = zips.END.unpack(content[-22:])
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = zips.ZIP64.pack(b"PK\6\7", 0, len(content) - 22, 1)
    return content[:-22] + end + locator + content[-22:]


def npy(shape, dtype="<i4", content=b"\0" * 16) -> bytes:
    stream = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + content


def npz(**members):
    """Replace members of the predictions."""

    def changed(files):
        stream = io.BytesIO()
        with np.load(io.BytesIO(files[PREDICTIONS])) as found:
            np.savez_compressed(stream, **{n: a for n, a in found.items() if n not in members})
        with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.npy", content)
        return replaced(PREDICTIONS, stream.getvalue())(files)

    return changed


def bzip2_npz(files):
    with np.load(io.BytesIO(files[PREDICTIONS])) as found:
        columns = {
            f"{name}.npy": npy(a.shape, a.dtype.str, a.tobytes()) for name, a in found.items()
        }
    return replaced(PREDICTIONS, other_ways(columns))(files)


def wide_npz(files):
    """Make predictions in a zip that claims a huge central directory."""
    return replaced(PREDICTIONS, ending(size=2**25)({"a": b""}))(files)


class Harm:
    """Creates a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("harm",)


def objects() -> bytes:
    """Return an array of pickled objects, whose number fits its bytes."""
    content = pickle.dumps(Harm())
    content += b"\0" * (-len(content) % 8)  # padding, which pickle ignores
    return npy((len(content) // 8,), "|O", content)


def later_format() -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.zeros(209, "i4"), version=(2, 0))
    return stream.getvalue()


def link(info):
    info.external_attr = (stat.S_IFLNK | 0o777) << 16


def other_ways(files):
    """Compress all members by bzip2, which cannot be read in parts."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def at(place, value):
    """Set a value in the manifest; `place` is a path of keys, separated by spaces."""

    def change(tree):
        *path, last = place.replace("RUN", RUN).split()
        for key in path:
            tree = tree[key]
        tree[last] = value

    return manifest(change)


def elsewhere(name):
    """Move a run to another folder, which the manifest lists."""

    def changed(files):
        moved = {n.replace(RUN, name): content for n, content in files.items()}
        moved["manifest.json"] = files["manifest.json"].replace(RUN.encode(), name.encode())
        return as_zip(moved)

    return changed


TWICE = f'{{"format": 1, "runs": {{"{RUN}": 1}}}}'
HOSTILE = {
    "text": (lambda files: b"not a zip", "it is not a zip, or is cut off"),
    "empty": (lambda files: b"", "it is not a zip, or is cut off"),
    "cut off": (lambda files: as_zip(files)[:-9], "it is not a zip, or is cut off"),
    "its start is missing": (
        lambda files: as_zip(files)[999:],
        "its file 'manifest.json' cannot be read (",
    ),
    "a bit": (flipped, f"its file '{PREDICTIONS}' cannot be read ("),
    "no manifest": (without("manifest.json"), "it has no manifest.json"),
    "no predictions": (without(PREDICTIONS), f"it lacks '{PREDICTIONS}', the predictions of a run"),
    "no record": (without(RECORD), f"it lacks '{RECORD}'"),
    "another format": (at("format", 2), "its format is 2, not 1"),
    "no format": (only(b"{}"), "its format is null, not 1"),
    "no runs": (at("runs", {}), "manifest.json lists no runs"),
    "a list of runs": (at("runs", [1]), "manifest.json lists no runs"),
    "a run is a number": (only(TWICE.encode()), "does not list results.json and predictions.npz"),
    "a run without files": (at("runs RUN files", {}), "does not list results.json and predictions"),
    "other bytes": (
        lambda files: as_zip(files | {PREDICTIONS: files[PREDICTIONS] + b"x"}),
        f"its file '{PREDICTIONS}' has changed since it was packed",
    ),
    "another hash": (
        at("runs RUN files results.json", {"sha256": "0" * 64, "size": 1}),
        f"its file '{RECORD}' has changed since it was packed",
    ),
    "more": (named("more.txt"), "its file 'more.txt' is not listed in manifest.json"),
    "a folder": (named("base2new/"), "its file name 'base2new/' is unsafe"),
    "above": (named("../x"), "its file name '../x' is unsafe"),
    "above later": (named("base2new/../../x"), "its file name 'base2new/../../x' is unsafe"),
    "absolute": (named("/etc/x"), "its file name '/etc/x' is unsafe"),
    "a drive": (named("C:/x"), "its file name 'C:/x' is unsafe"),
    "backslashes": (named(r"..\x"), r"its file name '..\x' is unsafe"),
    "a line": (named("a\nb"), r"its file name 'a\nb' is unsafe"),
    "a long name": (named("a" * 9999), f"its file name '{'a' * 100}' is unsafe"),
    "listed above": (elsewhere("../run"), "is unsafe"),
    "no place of a run": (elsewhere("mine/run"), "its folder 'mine/run' does not belong to a run"),
    "a link": (member(link), "its file 'more' is a link"),
    "twice": (
        member(lambda info: None, PREDICTIONS),
        f"it has '{PREDICTIONS}' 2 times",
    ),
    "bzip2": (other_ways, "'manifest.json' is compressed by another method than deflate"),
    "too many": (ending(size=2**25), "it has too many files"),
    "another zip": (listed_as(6, 255), "it cannot be read (NotImplementedError"),
    "any size": (zip64, "it has too many files"),
    "large": (replaced(RECORD, os.urandom(2**22) + b"x"), "has more than 4,194,304 bytes"),
    "a bomb": (replaced(RECORD, b" " * 2**22), "has more than 1,048,576 bytes"),
    "a bomb that lies": (lying, f"its file '{RECORD}' cannot be read ("),
    "a bomb of numbers": (npz(label=npy((2**25,), content=bytes(2**27))), "'label.npy' has more"),
    "npz of bzip2": (bzip2_npz, "'image.npy' is compressed by another method than deflate"),
    "npz of many": (wide_npz, "it has too many files"),
    "terabytes": (npz(label=npy((2**40,))), "an array (1099511627776,) of int32 has"),
    "long texts": (npz(image=npy((4,), f"<U{2**28}")), "of <U268435456 has"),
    "objects": (npz(label=objects()), f"its file '{PREDICTIONS}' cannot be read ("),
    "later arrays": (npz(label=later_format()), "an array is in another format"),
    "no array": (npz(label=b"code"), f"its file '{PREDICTIONS}' cannot be read ("),
    "no npz": (
        replaced(PREDICTIONS, b"code"),
        f"its file '{PREDICTIONS}' cannot be read (it is not a zip",
    ),
    "no JSON": (replaced(RECORD, b"{"), f"its file '{RECORD}' is not JSON ("),
    "bytes": (replaced(RECORD, b"\xff"), f"its file '{RECORD}' is not JSON (UnicodeDecodeError"),
    "deep": (replaced(RECORD, b"[" * 10**5), f"its file '{RECORD}' is nested too deeply"),
    "deep manifest": (only(b'{"a":' * 10**5), "its file 'manifest.json' is nested too deeply"),
    "a list": (replaced(RECORD, b"[]"), f"its file '{RECORD}' is not a JSON object"),
    "nan": (
        replaced(RECORD, b'{"accuracy": 1, "x": NaN}'),
        f"its file '{RECORD}' is not JSON (NaN is not a number)",
    ),
    "infinite": (replaced(RECORD, b'{"accuracy": -Infinity}'), "-Infinity is not a number"),
    "digits": (
        replaced(RECORD, b'{"accuracy": ' + b"9" * 9999 + b"}"),
        f"its file '{RECORD}' is not JSON (",
    ),
    "no record of ours": (
        lambda files: as_zip(record(accuracy=500)(files)),
        f"its file '{RECORD}' holds accuracy 500, which is not from 0 to 100",
    ),
    "more images than numbers": (
        lambda files: as_zip(record(num_test=10**400)(files)),
        "which is not a number, 0 or more",
    ),
    "a large accuracy over all classes": (
        lambda files: as_zip(record(joint_accuracy=10**400)(files)),
        "which is not from 0 to 100",
    ),
    "of another run": (
        lambda files: as_zip(record(seed=2)(files)),
        f"its file '{RECORD}' holds seed 2, not 1",
    ),
    "another backbone": (
        lambda files: as_zip(record(backbone_sha256="0" * 64)(files)),
        f"its file '{RECORD}' has another backbone_sha256 than manifest.json",
    ),
    "other data": (
        at("runs RUN data_fingerprint", "0" * 64),
        f"its file '{RECORD}' has another data_fingerprint than manifest.json",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_pack_is_refused_in_one_sentence(
    case, few, tmp_path, capsys, monkeypatch, deadline
):
    monkeypatch.chdir(tmp_path)
    change, sentence = HOSTILE[case]
    (tmp_path / "in" / "it").mkdir(parents=True)
    pack = tmp_path / "in" / "it" / "hostile.zip"
    pack.write_bytes(change(few))
    before = sorted(tmp_path.rglob("*"))
    assert main(["verify", str(pack)]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(f"python -m benchmark verify: '{pack}' is refused: ")
    assert sentence in said.err and said.err.count("\n") == 1 and not said.out
    assert sorted(tmp_path.rglob("*")) == before


def test_all_files_together_have_a_limit(few, tmp_path, capsys, monkeypatch):
    (tmp_path / "results.zip").write_bytes(as_zip(few))
    size = len(few[PREDICTIONS])
    monkeypatch.setitem(packs.FILES, "predictions.npz", (2**20, 2 * size - 1000))
    assert main(["verify", str(tmp_path / "results.zip")]) == 1
    assert "its files predictions.npz have more than" in capsys.readouterr().err


PLACES = {
    "missing": (lambda path: None, "cannot be read: No such file or directory"),
    "a folder": (lambda path: path.mkdir(), "is refused: it is not a regular file"),
    "a pipe": (os.mkfifo, "is refused: it is not a regular file"),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_pack_that_is_not_a_file_is_refused(case, tmp_path, capsys, deadline):
    make, sentence = PLACES[case]
    make(tmp_path / "pack.zip")
    assert main(["verify", str(tmp_path / "pack.zip")]) in (1, 2)
    assert sentence in capsys.readouterr().err
