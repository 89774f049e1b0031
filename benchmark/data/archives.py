"""Download files over HTTP with resume, and unpack archives safely, never outside a folder."""

import glob
import gzip
import hashlib
import lzma
import os
import shutil
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import gdown
import requests
import urllib3
from gdown.exceptions import DownloadError, FileURLRetrievalError
from requests.structures import CaseInsensitiveDict
from tqdm import tqdm

from trainers.prompting.errors import UserError

CHUNK = 1 << 20
TIMEOUT = (10, 60)  # seconds to connect, and between two pieces
PLAIN = {"Accept-Encoding": "identity"}  # so that lengths are those of the file itself
RETRIES = 3  # of a connection that breaks off, each after a longer pause

DRIVE = "https://drive.google.com/uc?id="

# Exceptions that zipfile and tarfile raise for a damaged archive.
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError,
    RuntimeError, ValueError,
)  # fmt: skip


def progress(what: str, total: int | None) -> tqdm:
    """Return a progress bar of bytes; it updates every ten seconds if stderr is not a terminal."""
    return tqdm(
        desc=what,
        total=total,
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


def ask(url: str) -> CaseInsensitiveDict[str]:
    """Return the headers of the file at an address, with those of redirections; empty if none."""
    headers: CaseInsensitiveDict[str] = CaseInsensitiveDict()
    try:
        with requests.head(url, headers=PLAIN, allow_redirects=True, timeout=TIMEOUT) as answer:
            for part in (*answer.history, answer) if answer.ok else ():
                headers.update(part.headers)
    except requests.RequestException:
        pass
    return headers


def stated_size(headers: Mapping[str, str]) -> int | None:
    """Return the size in bytes that headers state; None if they state none."""
    size = headers.get("X-Linked-Size") or headers.get("Content-Length")
    return int(size) if size else None


def fetch(url: str, target: Path, headers: Mapping[str, str]) -> Path:
    """Download `url` to a file next to `target` and return it, complete but unchecked.

    A download that broke off is resumed, if the server can, while `headers` (of `ask`) have the
    same ETag or date.
    """
    if headers.get("Content-Type", "").startswith("text/html"):
        raise UserError(
            f"'{url}' answers with a web page instead of the file, such as a login page"
        )
    version = f"{url} {headers.get('ETag') or headers.get('Last-Modified')}"
    done = target.with_name(f"{target.name}.{hashlib.sha256(version.encode()).hexdigest()[:8]}")
    for half in parts(done):
        if _size(half) == stated_size(headers):  # an earlier call was stopped just before this
            return half.rename(done)
    try:
        if "gzip" in headers.get("Content-Encoding", ""):
            return _receive_raw(url, done)
        try:
            return _receive(done, url)
        except DownloadError as error:
            if "byte range" not in str(error):
                raise
            for half in parts(done):  # the server cannot resume: begin again
                half.unlink()
            return _receive(done, url)
    except requests.HTTPError as error:
        answer = cast(requests.Response, error.response)
        raise UserError(f"'{url}' answers {answer.status_code} {answer.reason}") from None
    except (DownloadError, requests.RequestException, urllib3.exceptions.HTTPError):
        have = sum(map(_size, parts(done)))
        kept = f"breaks off ({tqdm.format_sizeof(have, 'B')} are kept)"
        raise UserError(f"'{url}' {kept if have else 'cannot be reached'}") from None


def fetch_drive(file_id: str, target: Path) -> Path:
    """Download a file from Google Drive, as `fetch` does from an address."""
    try:
        return _receive(target.with_name(target.name + ".drive"), f"{DRIVE}{file_id}")
    except FileURLRetrievalError:
        raise UserError(
            f"Google Drive refuses downloads by programs, often for a day after many requests: "
            f"try a browser at https://drive.google.com/file/d/{file_id}/view"
        ) from None
    except (DownloadError, requests.RequestException):
        raise UserError("Google Drive cannot be reached, or the connection broke") from None


def parts(done: Path) -> list[Path]:
    """Return what gdown has kept of downloads to a file, or to a version of it."""
    return sorted(done.parent.glob(f"{glob.escape(done.name)}*.part"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(done: Path, url: str) -> Path:
    """Download a file, or what is missing of it."""
    with progress(done.stem, None) as bar:

        def advance(received: int, total: int | None) -> None:
            if total and bar.total is None:
                # an archive of images needs about the same space again when it is unpacked
                check_space(done.parent, total - received + total * is_archive(done.stem))
                bar.total = total
            bar.update(received - bar.n)

        gdown.download(
            url, output=str(done), quiet=True, use_cookies=False, resume=True,
            progress=advance, timeout=TIMEOUT, retries=RETRIES,
        )  # fmt: skip
    return done


def _receive_raw(url: str, done: Path) -> Path:
    """Download a file as it is, without resuming: gdown would decode it."""
    with requests.get(url, headers=PLAIN, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        with open(done, "wb") as file:
            shutil.copyfileobj(answer.raw, file)
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


def merge(content: Path, folder: Path, last: list[str]) -> None:
    """Move the files of an unpacked folder below another one, which keeps those that it has.

    The paths in `last` come last: they show that all are there.
    """
    files = [path.relative_to(content) for path in content.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: str(path) in last):
        if not (folder / path).exists():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (content / path).rename(folder / path)
