"""Getting a file over HTTP, and unpacking an archive so that nothing of it leaves its folder."""

import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import gdown
import requests
import urllib3
from gdown.exceptions import DownloadError, FileURLRetrievalError
from tqdm import tqdm

from trainers.prompting.errors import UserError

CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
TRIES = 3  # connections in a row that bring nothing, before a download is given up
PAUSE = 1.0  # seconds before the next connection

# What a damaged archive makes zipfile and tarfile raise.
BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)


def progress(what: str, total: int | None, done: int = 0) -> tqdm:
    """A bar that counts bytes; a line every ten seconds where stderr is no terminal."""
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,
        delay=1e-3,  # none before the first bytes
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError if less than `needed` bytes are free where `folder` is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        needed, free = (tqdm.format_sizeof(size, "B") for size in (needed, free))
        raise UserError(f"{needed} are needed in '{folder}', but only {free} are free")


def is_archive(name: str) -> bool:
    """Whether a file of this name is to be unpacked."""
    return name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def fetch(url: str, target: Path) -> Path:
    """Download `url` to a file beside `target`, and return that file, complete but unchecked.

    It goes on where an earlier call stopped, if the server can.

    Raises:
        UserError: the address gives no such file, or keeps breaking off, or the disk is too small.
    """
    part = target.with_name(target.name + ".part")
    tries = 0
    while True:
        before = _size(part)
        try:
            _receive(url, part, archive=is_archive(target.name))
            return part
        except requests.exceptions.SSLError:
            raise UserError(f"'{url}' has no valid certificate") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            tries = 0 if _size(part) > before else tries + 1
            if tries == TRIES:
                have = tqdm.format_sizeof(_size(part), "B")
                what = f"breaks off ({have} are kept)" if _size(part) else "cannot be reached"
                raise UserError(f"'{url}' {what}") from None
            time.sleep(PAUSE)


def stated_size(url: str) -> int | None:
    """The bytes of the file at an address, if the server says so."""
    headers = {"Accept-Encoding": "identity"}
    try:
        with requests.head(url, headers=headers, allow_redirects=True, timeout=TIMEOUT) as answer:
            length = _stated(answer, "X-Linked-Size") or answer.headers.get("Content-Length", "")
            return int(length) if answer.ok and length.isdecimal() else None
    except requests.RequestException:
        return None


def check_stated(received: Path) -> None:
    """Raise UserError if a fetched file is not what its server said: the SHA-256, if it gave one.

    Hugging Face states that of large files in the answer that redirects to them.
    """
    stated = received.with_name(received.name + ".sha256")
    if stated.exists():
        check_sum(received, "sha256", stated.read_text())


def _stated(answer: requests.Response, header: str) -> str:
    """A header of an answer, or of one that has led to it; empty without any."""
    found = [one.headers.get(header) for one in (*answer.history, answer)]
    return next((text for text in found if text), "")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, archive: bool) -> None:
    """One connection: append to `part` what it lacks, or write it anew."""
    have = _size(part)
    tag = part.with_name(part.name + ".etag")
    headers = {"Accept-Encoding": "identity"}  # lengths are those of the file itself
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():  # the whole file, please, if it is another one by now
            headers["If-Range"] = tag.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and have:
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # complete, but the call that got it was ended before it could say so
            part.unlink()
            raise requests.ConnectionError
        if not answer.ok:
            raise UserError(f"'{url}' answers {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"'{url}' answers with a web page instead of the file")
        if answer.status_code != 206:
            have = 0
            _remember(tag, answer.headers.get("ETag", ""))
            sha256 = part.with_name(part.name + ".sha256")
            stated = _stated(answer, "X-Linked-ETag").strip('"')
            sha256.unlink(missing_ok=True)  # of what another address gave
            if re.fullmatch("[0-9a-f]{64}", stated):
                sha256.write_text(stated)
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total:  # an archive of images takes about as much again when it is unpacked
            check_space(part.parent, total - have + total * archive)
        name = part.name.removesuffix(".part")
        with open(part, "ab" if have else "wb") as file, progress(name, total, have) as bar:
            # Not decoded: some servers call a .tgz a gzip encoding of a .tar.
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
    if total and _size(part) < total:
        raise requests.ConnectionError


def _remember(tag: Path, etag: str) -> None:
    """Keep the mark of the file's version, if it is one that stands for every byte."""
    if etag.startswith('"'):
        tag.write_text(etag)
    else:
        tag.unlink(missing_ok=True)


def fetch_drive(file_id: str, target: Path) -> Path:
    """As `fetch`, from Google Drive."""
    done = target.with_name(target.name + ".drive")
    with progress(target.name, None) as bar:

        def told(received: int, total: int | None) -> None:
            if total and bar.total is None:
                check_space(target.parent, total - received + total * is_archive(target.name))
                bar.total = total
            bar.update(received - bar.n)

        try:
            gdown.download(
                id=file_id,
                output=str(done),
                quiet=True,
                use_cookies=False,
                resume=True,
                progress=told,
            )
        except FileURLRetrievalError:
            raise UserError(
                f"Google Drive refuses it to programs, often for a day when many have asked: a "
                f"browser may get it at https://drive.google.com/file/d/{file_id}/view"
            ) from None
        except (DownloadError, requests.RequestException):
            raise UserError("Google Drive cannot be reached or breaks off") from None
    return done


def check_sum(path: Path, kind: str, expected: str) -> None:
    """Raise UserError if the hash of a file is not the expected one; `kind` is md5 or sha256."""
    digest = hashlib.new(kind, usedforsecurity=False)
    with open(path, "rb") as file, progress(f"{kind} of {path.name}", _size(path)) as bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != expected:
        raise UserError(f"its {kind} is {digest.hexdigest()}, not {expected}")


@contextmanager
def unpacked(archive: Path, folder: Path, inside: str = "") -> Iterator[Path]:
    """The content of an archive, or of the archive `inside` it, in `folder` for a while.

    Raises:
        UserError: the archive is broken, or a member would leave the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)  # what a killed call left
    try:
        content = folder / "content"
        _unpack(archive, content)
        if inside:
            archive, content = find(content, inside), folder / "inside"
            _unpack(archive, content)
        yield content
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    try:
        (_unpack_zip if archive.suffix == ".zip" else _unpack_tar)(archive, folder)
    except UserError:
        raise
    except getattr(tarfile, "FilterError", ()) as error:
        raise UserError(f"'{archive}' is not unpacked, for it is unsafe: {error}") from None
    except BROKEN as error:
        raise UserError(
            f"'{archive}' is broken or incomplete ({error}): delete it and call this again"
        ) from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        members = file.infolist()
        total = sum(member.file_size for member in members)
        check_space(folder, total)
        with progress(f"unpacking {archive.name}", total) as bar:
            for member in members:
                link = stat.S_ISLNK(member.external_attr >> 16)
                _check_member(archive, member.filename, link)
                file.extract(member, folder)
                bar.update(member.file_size)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with (
        open(archive, "rb") as raw,
        tarfile.open(fileobj=raw) as file,
        progress(f"unpacking {archive.name}", _size(archive)) as bar,
    ):
        file.extraction_filter = getattr(tarfile, "data_filter", None)

        def members() -> Iterator[tarfile.TarInfo]:
            for member in file:
                plain = member.isfile() or member.isdir()
                # An early Python 3.10 or 3.11 has no filter that could judge a link or a device.
                _check_member(archive, member.name, not (plain or file.extraction_filter))
                yield member
                bar.update(raw.tell() - bar.n)

        file.extractall(folder, members())
        while file.fileobj.read(CHUNK):  # to the end, where gzip has its checksum
            pass


def _check_member(archive: Path, name: str, special: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if special or path.is_absolute() or ".." in path.parts:
        why = "is a link or a device" if special else "leads out of the folder"
        raise UserError(f"'{archive}' is not unpacked, for it is unsafe: '{name}' {why}")


def find(folder: Path, name: str) -> Path:
    """The file or folder of that name in `folder`, or at most two levels below.

    Raises:
        UserError: there is none.
    """
    level = [folder]
    for _ in range(3):
        for parent in level:
            if name in os.listdir(parent):  # exists() would not tell SUN397 from sun397 on a Mac
                return parent / name
        level = [path for parent in level for path in sorted(parent.iterdir()) if path.is_dir()]
    raise UserError(f"the archive holds no '{name}'")


def place(content: Path, target: Path) -> None:
    """Move unpacked content to where it belongs.

    Raises:
        UserError: it is or has a link that leads out of it, and would lead elsewhere from there.
    """
    if content.is_symlink():
        raise UserError(f"the archive is unsafe: '{content.name}' is a link")
    for parent, folders, files in os.walk(content):
        for path in (Path(parent, name) for name in folders + files):
            if path.is_symlink() and not path.resolve().is_relative_to(content.resolve()):
                raise UserError(f"the archive is unsafe: the link '{path.name}' leads out of it")
    content.rename(target)
