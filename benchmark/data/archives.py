"""Download files over HTTP with resume, and unpack archives safely, never outside a folder."""

import gzip
import hashlib
import lzma
import os
import re
import shutil
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gdown
import requests
import urllib3
from gdown.exceptions import DownloadError, FileURLRetrievalError
from tqdm import tqdm

from trainers.prompting.errors import UserError

CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
TRIES = 3  # failed connections in a row, without new bytes, after which a download is given up
PAUSE = 1.0  # seconds before the next connection

# Exceptions that zipfile and tarfile raise for a damaged archive.
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    RuntimeError, ValueError,
)  # fmt: skip


def progress(what: str, total: int | None, done: int = 0) -> tqdm:
    """Return a progress bar of bytes; it updates every ten seconds if stderr is not a terminal."""
    return tqdm(
        desc=what,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,
        delay=1e-3,  # show no bar before the first bytes
    )


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError if the disk of `folder` has less than `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        needed, free = (tqdm.format_sizeof(size, "B") for size in (needed, free))
        raise UserError(
            f"{needed} are needed in '{folder}', but only {free} are free: make space on this disk"
        )


def is_archive(name: str) -> bool:
    """Return True if a file of this name is an archive to unpack."""
    return name.endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def fetch(url: str, target: Path) -> Path:
    """Download `url` to a temporary file next to `target` and return it, complete but unchecked.

    The download resumes an earlier one if the server supports that.

    Raises:
        UserError: the server has no such file, the connection keeps breaking off, or the disk is
            too small.
    """
    part = target.with_name(target.name + ".part")
    tries, most = 0, _size(part)
    while True:
        try:
            _receive(url, part, archive=is_archive(target.name))
            return part
        except requests.exceptions.SSLError:
            raise UserError(f"the certificate of '{url}' is not valid") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError):
            # not since the last connection: a server that refuses to resume begins again and again
            tries = 0 if _size(part) > most else tries + 1
            most = max(most, _size(part))
            if tries == TRIES:
                have = tqdm.format_sizeof(_size(part), "B")
                what = f"breaks off ({have} are kept)" if most else "cannot be reached"
                raise UserError(f"'{url}' {what}") from None
            time.sleep(PAUSE)


def stated_size(url: str) -> int | None:
    """Return the size in bytes of the file at an address; None if the server does not state it."""
    headers = {"Accept-Encoding": "identity"}
    try:
        with requests.head(url, headers=headers, allow_redirects=True, timeout=TIMEOUT) as answer:
            length = header_of(answer, "X-Linked-Size") or answer.headers.get("Content-Length", "")
            return int(length) if answer.ok and length.isdecimal() else None
    except requests.RequestException:
        return None


def check_stated(received: Path) -> None:
    """Raise UserError if a downloaded file differs from the SHA-256 that its server stated, if any.

    Hugging Face states the SHA-256 of large files in the response that redirects to them.
    """
    stated = received.with_name(received.name + ".sha256")
    if stated.exists():
        check_sum(received, "sha256", stated.read_text())


def header_of(answer: requests.Response, header: str) -> str:
    """Return a header of a response or of one that redirected to it; empty if none has it."""
    values = [part.headers.get(header) for part in (*answer.history, answer)]
    return next((text for text in values if text), "")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, archive: bool) -> None:
    """Make one connection: append the missing bytes to `part`, or write the file from the start."""
    have = _size(part)
    tag = part.with_name(part.name + ".etag")
    headers = {"Accept-Encoding": "identity"}  # so that lengths are those of the file itself
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists():  # if the file has changed since, the server sends all of it
            headers["If-Range"] = tag.read_text()
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == 416 and have:
            if answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # complete: an earlier call was stopped just before it renamed the file
            part.unlink()
            raise requests.ConnectionError
        if not answer.ok:
            raise UserError(f"'{url}' answers {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(
                f"'{url}' answers with a web page instead of the file, such as a login page"
            )
        if answer.status_code != 206:
            have = 0
            _remember(tag, answer.headers.get("ETag", ""))
            sha256 = part.with_name(part.name + ".sha256")
            stated = header_of(answer, "X-Linked-ETag").strip('"')
            sha256.unlink(missing_ok=True)  # it may be of a file from another address
            if re.fullmatch("[0-9a-f]{64}", stated):
                sha256.write_text(stated)
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if total:  # an archive of images needs about the same space again when it is unpacked
            check_space(part.parent, total - have + total * archive)
        name = part.name.removesuffix(".part")
        with open(part, "ab" if have else "wb") as file, progress(name, total, have) as bar:
            # Without decoding: some servers declare a .tgz as a gzip encoding of a .tar.
            for chunk in answer.raw.stream(CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
    if total and _size(part) < total:
        raise requests.ConnectionError


def _remember(tag: Path, etag: str) -> None:
    """Store the ETag for a later resume if it is a strong one, else remove the stored one."""
    if etag.startswith('"'):
        tag.write_text(etag)
    else:
        tag.unlink(missing_ok=True)


def fetch_drive(file_id: str, target: Path) -> Path:
    """Download a file from Google Drive, as `fetch` does from an address."""
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
                f"Google Drive refuses downloads by programs, often for a day after many requests: "
                f"try a browser at https://drive.google.com/file/d/{file_id}/view"
            ) from None
        except (DownloadError, requests.RequestException):
            raise UserError("Google Drive cannot be reached, or the connection broke") from None
    return done


def check_sum(path: Path, kind: str, expected: str) -> None:
    """Raise UserError if the hash of a file is not as expected.

    `kind` is md5, sha256 or git_blob, the name that git gives the content.
    """
    digest = hashlib.new("sha1" if kind == "git_blob" else kind, usedforsecurity=False)
    if kind == "git_blob":
        digest.update(b"blob %d\0" % _size(path))
    with open(path, "rb") as file, progress(f"{kind} of {path.name}", _size(path)) as bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != expected:
        raise UserError(f"its {kind} is {digest.hexdigest()}, not {expected}")


@contextmanager
def unpack_archive(archive: Path, folder: Path, inside: str = "") -> Iterator[Path]:
    """Unpack an archive, or the archive `inside` it, into a temporary `folder`.

    Yields:
        The folder with the content; it is deleted afterwards.

    Raises:
        UserError: the archive is broken, or a member would leave the folder.
    """
    shutil.rmtree(folder, ignore_errors=True)  # left by a call that was killed
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
    """Unpack an archive: zipfile and the filter `data` keep all of it inside the folder."""
    folder.mkdir(parents=True)
    try:
        (_unpack_zip if archive.suffix == ".zip" else _unpack_tar)(archive, folder)
    except tarfile.FilterError as error:
        raise UserError(f"'{archive}' is unsafe and was not unpacked: {error}") from None
    except BROKEN as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"'{archive}' is broken or incomplete ({error}): delete it and rerun the command"
        ) from None


def _unpack_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        total = sum(member.file_size for member in file.infolist())
        check_space(folder, total)
        with progress(f"unpacking {archive.name}", total) as bar:
            for member in file.infolist():
                file.extract(member, folder)
                bar.update(member.file_size)


def _unpack_tar(archive: Path, folder: Path) -> None:
    with (
        open(archive, "rb") as raw,
        tarfile.open(fileobj=raw) as file,
        progress(f"unpacking {archive.name}", _size(archive)) as bar,
    ):
        for member in file:
            file.extract(member, folder, filter="data")
            bar.update(raw.tell() - bar.n)
        while file.fileobj.read(CHUNK):  # gzip's checksum is at the end
            pass


def find(folder: Path, name: str) -> Path:
    """Find `name` in `folder` or up to two levels below; raises UserError if it is not there."""
    level = [folder]
    for _ in range(3):
        for parent in level:
            if name in os.listdir(parent):  # on a Mac, exists() ignores case: SUN397 and sun397
                return parent / name
        level = [path for parent in level for path in sorted(parent.iterdir()) if path.is_dir()]
    raise UserError(f"the archive does not hold '{name}': it may be of another version")


def place(content: Path, target: Path) -> None:
    """Move unpacked content to its place.

    Raises:
        UserError: the content is a link, or holds one that leads out of it.
    """
    if content.is_symlink():
        raise UserError(f"the archive is unsafe: '{content.name}' is a link")
    for parent, folders, files in os.walk(content):
        for path in (Path(parent, name) for name in folders + files):
            if path.is_symlink() and not path.resolve().is_relative_to(content.resolve()):
                raise UserError(f"the archive is unsafe: the link '{path.name}' leads out of it")
    content.rename(target)
