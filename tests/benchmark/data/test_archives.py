"""Tests of downloads that break off or have a wrong hash, and of broken or unsafe archives."""

import hashlib
import os
import re
import shutil
import tarfile
from collections import namedtuple

import pytest
import requests
from served import JPEG, TREE, arrived, link, tar, tar_of, zipped

import datasets  # noqa: F401 (registers the data sets)

CHUNK = 524_288  # what gdown keeps of a connection that breaks off: whole chunks


def test_a_broken_connection_is_resumed(server, toy, get, tmp_path):
    toy(tar(TREE))
    server.cuts["toy.tar.gz"] = [2_000_000, 600_000, 0]
    ran = get("toy")
    assert ran.code == 0, ran.err
    assert arrived(tmp_path / "data/toy")
    assert [wanted and int(wanted[6:-1]) for _, wanted, _ in server.log] == [
        None, 3 * CHUNK, 4 * CHUNK, 4 * CHUNK,
    ]  # fmt: skip


@pytest.fixture
def broken_off(server, toy, get, tmp_path):
    """The part file of a download that has broken off after a megabyte."""
    toy(tar(TREE))
    server.cuts["toy.tar.gz"] = [1_000_000, 0, 0, 0]
    ran = get("toy")
    assert ran.code == 1
    assert "breaks off (524kB are kept)" in ran.err and "not complete: toy (of 1)" in ran.err
    (kept,) = (tmp_path / "data/toy").iterdir()
    server.log.clear()
    return kept


def test_the_next_call_resumes_a_truncated_download(server, broken_off, get):
    assert get("toy").code == 0
    assert server.log[-1] == ("toy.tar.gz", f"bytes={CHUNK}-", 206)
    folder = broken_off.parent
    assert arrived(folder) and {path.name for path in folder.iterdir()} == {"images"}


@pytest.mark.parametrize("why", ["no ranges", "another file", "too long"])
def test_a_download_that_cannot_be_resumed_starts_again(why, server, broken_off, get):
    broken_off.write_bytes(b"?" * (4_000_000 if why == "too long" else CHUNK))
    server.no_ranges = why == "no ranges"
    if why == "another file":
        server.files["toy.tar.gz"] = tar(TREE | {"top/new.txt": b"new"})
    assert get("toy").code == 0
    assert server.log[-1][2] == 200 and arrived(broken_off.parent)
    assert {path.name for path in broken_off.parent.iterdir()} == {"images"}


def test_a_server_that_breaks_off_and_refuses_to_resume_is_given_up(server, toy, get):
    toy(tar(TREE))
    server.cuts["toy.tar.gz"], server.bad_ranges = [1_000_000] * 40, True
    ran = get("toy")
    assert ran.code == 1 and "/toy.tar.gz' breaks off" in ran.err and len(server.log) < 6


def test_a_complete_part_file_is_not_downloaded_again(server, broken_off, get):
    broken_off.write_bytes(server.files["toy.tar.gz"])
    assert get("toy").code == 0
    assert server.log == [] and arrived(broken_off.parent)


def test_an_archive_declared_as_gzip_encoding_is_not_decoded(server, toy, get, tmp_path):
    body = tar(TREE)
    toy(body, md5=hashlib.md5(body).hexdigest())
    server.headers["toy.tar.gz"] = {"Content-Encoding": "gzip"}
    assert get("toy").code == 0 and arrived(tmp_path / "data/toy")


def test_addresses_are_tried_in_turn(server, toy, get, tmp_path):
    server.files["page"] = b"<html>moved"
    server.headers["page"] = {"Content-Type": "text/html; charset=utf-8"}
    toy(tar(TREE), urls=[f"{server.url}/{name}" for name in ("gone", "page", "toy.tar.gz")])
    assert get("toy").code == 0 and arrived(tmp_path / "data/toy")
    shutil.rmtree(tmp_path / "data")
    toy(b"", urls=[f"{server.url}/{name}" for name in ("gone", "page")])
    ran = get("toy")
    assert ran.code == 1
    assert (
        f"'{server.url}/gone' answers 404 Not Found; '{server.url}/page' answers with a web page"
        in ran.err
    )
    assert f"put the file at '{tmp_path / 'data/toy/toy.tar.gz'}' yourself" in ran.err


def test_an_unreachable_address_is_reported(toy, get):
    toy(b"", urls=["http://127.0.0.1:9/toy.tar.gz"])
    assert "'http://127.0.0.1:9/toy.tar.gz' cannot be reached" in get("toy").err


def test_a_file_with_a_wrong_hash_is_not_used(server, toy, get, tmp_path):
    toy(body := tar(TREE), sha256="0" * 64)
    ran = get("toy")
    assert ran.code == 1
    wrong = tmp_path / "data/toy/toy.tar.gz.wrong"
    digest = hashlib.sha256(body).hexdigest()
    assert f"is kept as '{wrong}' because its sha256 is {digest}" in ran.err
    assert wrong.read_bytes() == body
    assert list(wrong.parent.iterdir()) == [wrong]


BROKEN = {
    "half.tar.gz": tar(TREE)[:1_000_000],
    "no checksum.tgz": tar(TREE)[:-8] + b"00000000",
    "garbage.tar": os.urandom(5000),
    "empty.tar.gz": b"",
    "half.zip": zipped(TREE)[:1_000_000],
    "flipped.zip": zipped(TREE).replace(TREE["top/images/1.jpg"][:9], b"different"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_archive_is_named(name, toy, get, tmp_path):
    toy(BROKEN[name], name)
    ran = get("toy")
    archive = tmp_path / "data/toy" / name
    assert ran.code == 1
    assert f"'{archive}' is broken or incomplete" in ran.err and "delete it" in ran.err
    assert ran.err.count("Traceback") == 0
    assert [path.name for path in archive.parent.iterdir()] == [name]


def test_an_archive_without_the_images_is_refused(toy, get, tmp_path):
    toy(tar({"top/other/1.jpg": JPEG}))
    assert "the archive does not hold 'images'" in get("toy").err


UNSAFE = {
    "up.tar": tar_of(tarfile.TarInfo("images/../../../../evil")),
    "symlink.tar": tar_of(link("images/out", "../../../../.."), tarfile.TarInfo("images/out/evil")),
}


@pytest.mark.parametrize("name", UNSAFE)
def test_an_unsafe_archive_is_refused(name, toy, get, tmp_path):
    toy(UNSAFE[name], name)
    ran = get("toy")
    assert ran.code == 1 and "is broken or incomplete" in ran.err, ran.err
    assert not list(tmp_path.rglob("*evil*"))
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"toy", ".toy.lock"}
    assert [path.name for path in (tmp_path / "data/toy").iterdir()] == [name]


def test_a_small_disk_is_noticed_before_the_download(toy, get, tmp_path, monkeypatch):
    toy(body := tar(TREE))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(int(len(body) * 1.7)))
    ran = get("toy")
    assert ran.code == 1
    assert re.search(r"5\.\d+MB are needed in '.*toy', but only 5\.\d+MB are free", ran.err)
    (kept,) = (tmp_path / "data/toy").iterdir()
    assert kept.stat().st_size <= CHUNK


@pytest.fixture
def drive(server, monkeypatch):
    """Send requests for Google Drive to the test server."""
    request = requests.Session.request

    def rerouted(session, method, url, **options):
        file_id = re.fullmatch(r"https://drive\.google\.com/uc\?id=(\w+)", url)
        return request(session, method, f"{server.url}/{file_id[1]}", **options)

    monkeypatch.setattr(requests.Session, "request", rerouted)
    server.headers["toy_id"] = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": 'attachment; filename="toy.tar.gz"',
    }


def test_google_drive_is_resumed(server, drive, toy, get, tmp_path):
    body = tar(TREE)
    toy(body, urls=[], drive="toy_id", md5=hashlib.md5(body).hexdigest())
    server.files = {"toy_id": body}
    server.cuts["toy_id"] = [1_000_000, 0, 0, 0]
    ran = get("toy")
    assert ran.code == 1 and "Google Drive cannot be reached, or the connection broke" in ran.err
    server.log.clear()
    assert get("toy").code == 0 and arrived(tmp_path / "data/toy")
    assert server.log[-1][2] == 206
    assert [path.name for path in (tmp_path / "data/toy").iterdir()] == ["images"]


def test_a_refusal_by_google_drive_names_the_page_for_a_browser(server, drive, toy, get, tmp_path):
    toy(b"", urls=[], drive="toy_id")
    server.files["toy_id"] = b'<p class="uc-error-subcaption">Too many users have viewed it.</p>'
    server.headers["toy_id"] = {"Content-Type": "text/html"}
    ran = get("toy")
    assert ran.code == 1 and "https://drive.google.com/file/d/toy_id/view" in ran.err
    assert not list((tmp_path / "data/toy").iterdir())
