"""Downloads from a small server on this machine: archives of the true layout, and bad ones.

It is long because the server and every way in which a download goes wrong belong together.
"""

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import requests
import yaml
from dassl.data.datasets import DATASET_REGISTRY

import datasets  # noqa: F401 (registers the data sets)
from benchmark.__main__ import main
from benchmark.data import archives, download
from trainers.prompting.files import held

JPEG = b"\xff\xd8\xff\xe0 stands for an image"
REAL = yaml.safe_load(download.TABLE.read_text())


class Server(ThreadingHTTPServer):
    """Serves `files`; other tables say for which of them it misbehaves, and how."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {}
        self.cuts = {}  # name: after how many bytes each of the next connections breaks off
        self.no_ranges = False
        self.headers = {}  # name: headers to send besides
        self.log = []  # (name, Range, status)

    def handle_error(self, *_):
        """Say nothing of a client that hangs up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        name = unquote(urlsplit(self.path).path).lstrip("/")
        wanted = self.headers.get("Range")
        body = server.files.get(name)
        start, status = 0, 404 if body is None else 200
        etag = body and f'"{hashlib.md5(body).hexdigest()}"'
        same = self.headers.get("If-Range", etag) == etag
        if body and wanted and same and not server.no_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            status = 206 if start < len(body) else 416
        server.log.append((name, wanted, status))
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(body)}")
        content = (body or b"")[start:] if status < 300 else b""
        self.send_header("Content-Length", str(len(content)))
        if etag:
            self.send_header("ETag", etag)
        for header, value in server.headers.get(name, {}).items():
            self.send_header(header, value)
        self.end_headers()
        if cuts := server.cuts.get(name):
            content = content[: cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(archives, "PAUSE", 0)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


Ran = namedtuple("Ran", "code out err")


@pytest.fixture
def get(tmp_path, capsys):
    """`download NAME ... --root tmp_path/data`, and what came of it."""

    def call(*words):
        code = main(["download", *words, "--root", str(tmp_path / "data")])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A function that puts another table in the place of configs/downloads.yaml."""

    def use(entries):
        path = tmp_path / "table.yaml"
        path.write_text(yaml.safe_dump(entries))
        monkeypatch.setattr(download, "TABLE", path)

    return use


def tar(tree, mode="w:gz"):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as file:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return data.getvalue()


def zipped(tree):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in tree.items():
            file.writestr(name, content)
    return data.getvalue()


def split(*images):
    """A split file, of images that are each of a class of its own."""
    items = [[image, label, f"class {label}"] for label, image in enumerate(images)]
    return json.dumps({"train": items, "val": items[:1], "test": items}).encode()


def under(prefix, *names, content=JPEG):
    return {f"{prefix}/{name}": content for name in names}


CLASSNAMES = b"n01440764 tench\nn01443537 goldfish\n"
FOLDERS = ("n01440764/a.JPEG", "n01443537/b.JPEG")
AIRCRAFT = {
    f"fgvc-aircraft-2013b/data/images_variant_{part}.txt": b"0000001 707-320\n0000002 A300\n"
    for part in ("train", "val", "test")
}

# What the sets' files hold, laid out as the public ones are.
PUBLIC = {
    "caltech101": {
        "caltech-101.zip": zipped({
            "caltech-101/101_ObjectCategories.tar.gz": tar(
                under("101_ObjectCategories", "Faces/1.jpg", "ant/1.jpg")
            ),
            "caltech-101/Annotations.tar": b"",
            "__MACOSX/caltech-101/._x": b"",
        }),
        "split_zhou_Caltech101.json": split("Faces/1.jpg", "ant/1.jpg"),
    },
    "oxford_pets": {
        "images.tar.gz": tar(under("images", "Bombay_1.jpg", "pug_1.jpg")),
        "annotations.tar.gz": tar(under("./annotations", "trainval.txt", "test.txt")),
        "split_zhou_OxfordPets.json": split("Bombay_1.jpg", "pug_1.jpg"),
    },
    "stanford_cars": {
        "stanford_cars.zip": zipped({
            "stanford_cars/cars_train/1.jpg": JPEG,
            "stanford_cars/cars_test/1.jpg": JPEG,
            "stanford_cars/split_fewshot/shot_1-seed_1.pkl": b"not to be kept",
        }),
        "split_zhou_StanfordCars.json": split("cars_train/1.jpg", "cars_test/1.jpg"),
    },
    "oxford_flowers": {
        "102flowers.tgz": tar(under("jpg", "image_00001.jpg", "image_00002.jpg")),
        "imagelabels.mat": b"labels",
        "cat_to_name.json": b"{}",
        "split_zhou_OxfordFlowers.json": split("image_00001.jpg", "image_00002.jpg"),
    },
    "food101": {
        "food-101.tar.gz": tar(under("food-101/images", "pho/1.jpg", "waffles/1.jpg")),
        "split_zhou_Food101.json": split("pho/1.jpg", "waffles/1.jpg"),
    },
    "fgvc_aircraft": {
        "fgvc-aircraft-2013b.tar.gz": tar(
            under("fgvc-aircraft-2013b/data/images", "0000001.jpg", "0000002.jpg")
            | {"fgvc-aircraft-2013b/data/variants.txt": b"707-320\nA300\n"}
            | {"fgvc-aircraft-2013b/evaluation.m": b""}
            | AIRCRAFT
        ),
    },
    "sun397": {
        "sun397.zip": zipped(under("sun397/SUN397", "a/abbey/1.jpg", "a/alley/1.jpg")),
        "split_zhou_SUN397.json": split("a/abbey/1.jpg", "a/alley/1.jpg"),
    },
    "ucf101": {
        "UCF-101-midframes.zip": zipped(under("UCF-101-midframes", "Archery/1.jpg", "Yo/1.jpg")),
        "split_zhou_UCF101.json": split("Archery/1.jpg", "Yo/1.jpg"),
    },
    "dtd": {
        "dtd-r1.0.1.tar.gz": tar(under("dtd/images", "banded/1.jpg", "woven/1.jpg")),
        "split_zhou_DescribableTextures.json": split("banded/1.jpg", "woven/1.jpg"),
    },
    "eurosat": {
        "EuroSAT.zip": zipped(under("2750", "Forest/1.jpg", "River/1.jpg")),
        "split_zhou_EuroSAT.json": split("Forest/1.jpg", "River/1.jpg"),
    },
    "imagenetv2": {
        # The public file is called .tar.gz and is a plain .tar.
        "imagenetv2-matched-frequency.tar.gz": tar(
            under("imagenetv2-matched-frequency-format-val", "0/a.jpeg", "1/b.jpeg"), "w"
        ),
        "classnames.txt": CLASSNAMES,
    },
    "imagenet_sketch": {
        "ImageNet-Sketch.zip": zipped(under("sketch", *FOLDERS)),
        "classnames.txt": CLASSNAMES,
    },
    "imagenet_a": {
        "imagenet-a.tar": tar(under("imagenet-a", *FOLDERS), "w"),
        "classnames.txt": CLASSNAMES,
    },
    "imagenet_r": {
        "imagenet-r.tar": tar(under("imagenet-r", *FOLDERS), "w"),
        "classnames.txt": CLASSNAMES,
    },
}  # fmt: skip


def reader(name):
    """The class that reads a data set."""
    config = download.read_tree(download.CONFIGS / "datasets" / f"{name}.yaml")
    return DATASET_REGISTRY.get(config["DATASET"]["NAME"])


def test_the_table_is_whole():
    origins = {}
    for name, entry in REAL.items():
        dataset = reader(name)
        assert entry["folder"] == dataset.dataset_dir
        sources = [download.Source(**file) for file in entry["files"]]
        given = {path for source in sources for path in source.gives}
        assert dataset.image_dir.split("/")[0] in given | {"", "images"}
        assert not dataset.split_file or dataset.split_file in given
        for source in sources:
            assert source.urls or source.drive
            assert bool(source.holds) == archives.is_archive(source.name)
            assert re.fullmatch(r"([0-9a-f]{64})?", source.sha256)
            assert re.fullmatch(r"([0-9a-f]{32})?", source.md5)
            # A mirror is one folder: a name stands for one file.
            assert origins.setdefault(source.name, source) == source
    assert len(REAL) == 15 and set(PUBLIC) == set(REAL) - {"imagenet"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_data_set_arrives_and_is_read(name, server, get, table, tmp_path):
    server.files = PUBLIC[name]
    entry = yaml.safe_load(yaml.safe_dump(REAL[name]))
    for file in entry["files"]:  # the hashes of these archives, in the place of the public ones
        for kind in {"md5", "sha256"} & set(file):
            file[kind] = hashlib.new(kind, PUBLIC[name][file["name"]]).hexdigest()
    table({name: entry})
    ran = get(name, "--mirror", server.url)
    assert ran.code == 0, ran.err
    folder = tmp_path / "data" / entry["folder"]
    assert f"{name}: is complete in '{folder}'" in ran.out
    expected = {path for file in entry["files"] for path in download.Source(**file).gives}
    assert {path.name for path in folder.iterdir()} == expected  # and nothing else

    if name != "imagenetv2":  # which wants its thousand folders
        train, _, test = reader(name).read(folder)
        assert len(train) == len(test) == 2
    server.log.clear()
    assert get(name, "--mirror", server.url).out == f"{name}: is already in '{folder}'\n"
    assert not server.log


TREE = {"top/images/1.jpg": os.urandom(3_000_000)}


@pytest.fixture
def toy(server, table):
    """A function: a data set `toy` whose archive is `body`, at the addresses in `files`."""

    def use(body, name="toy.tar.gz", **fields):
        server.files[name] = body
        file = {"name": name, "urls": [f"{server.url}/{name}"], "holds": {"images": "images"}}
        table({"toy": {"folder": "toy", "files": [file | fields]}})

    return use


def arrived(folder):
    return (folder / "images/1.jpg").read_bytes() == TREE["top/images/1.jpg"]


def test_a_broken_connection_is_resumed(server, toy, get, tmp_path):
    toy(tar(TREE))
    server.cuts["toy.tar.gz"] = [2_000_000, 500_000, 0, 0]
    ran = get("toy")
    assert ran.code == 0, ran.err
    assert arrived(tmp_path / "data/toy")
    assert [wanted and int(wanted[6:-1]) for _, wanted, _ in server.log] == [
        None, 2_000_000, 2_500_000, 2_500_000, 2_500_000,
    ]  # fmt: skip


def test_a_truncated_download_goes_on_with_the_next_call(server, toy, get, tmp_path):
    toy(tar(TREE))
    server.cuts["toy.tar.gz"] = [1_000_000, 0, 0, 0]
    ran = get("toy")
    assert ran.code == 1
    assert "breaks off (1.00MB are kept)" in ran.err and "not complete: toy (of 1)" in ran.err
    folder = tmp_path / "data/toy"
    assert {path.name for path in folder.iterdir()} == {"toy.tar.gz.part", "toy.tar.gz.part.etag"}
    server.log.clear()
    assert get("toy").code == 0
    assert server.log == [("toy.tar.gz", "bytes=1000000-", 206)]
    assert arrived(folder) and {path.name for path in folder.iterdir()} == {"images"}


@pytest.mark.parametrize("why", ["no ranges", "another file", "too long"])
def test_a_download_starts_again_where_it_cannot_go_on(why, server, toy, get, tmp_path):
    folder = tmp_path / "data/toy"
    folder.mkdir(parents=True)
    toy(body := tar(TREE))
    size = len(body) + 5 if why == "too long" else 1_000_000
    (folder / "toy.tar.gz.part").write_bytes(b"?" * size)
    server.no_ranges = why == "no ranges"
    if why == "another file":
        (folder / "toy.tar.gz.part.etag").write_text('"of yesterday"')
    assert get("toy").code == 0
    assert server.log[-1][2] == 200 and arrived(folder)


def test_a_download_that_only_lacked_its_name_is_not_repeated(server, toy, get, tmp_path):
    folder = tmp_path / "data/toy"
    folder.mkdir(parents=True)
    toy(body := tar(TREE))
    (folder / "toy.tar.gz.part").write_bytes(body)
    assert get("toy").code == 0
    assert [status for *_, status in server.log] == [416] and arrived(folder)


def test_an_archive_called_an_encoding_stays_as_it_is(server, toy, get, tmp_path):
    body = tar(TREE)
    toy(body, md5=hashlib.md5(body).hexdigest())
    server.headers["toy.tar.gz"] = {"Content-Encoding": "gzip"}
    assert get("toy").code == 0 and arrived(tmp_path / "data/toy")


def test_the_next_address_is_asked(server, toy, get, tmp_path):
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


def test_an_address_that_nobody_listens_at(toy, get):
    toy(b"", urls=["http://127.0.0.1:9/toy.tar.gz"])
    assert "'http://127.0.0.1:9/toy.tar.gz' cannot be reached" in get("toy").err


def test_a_file_with_another_hash_is_not_taken(server, toy, get, tmp_path):
    toy(body := tar(TREE), sha256="0" * 64)
    ran = get("toy")
    assert ran.code == 1
    wrong = tmp_path / "data/toy/toy.tar.gz.wrong"
    assert f"is kept as '{wrong}', for its sha256 is {hashlib.sha256(body).hexdigest()}" in ran.err
    assert wrong.read_bytes() == body
    assert [
        path for path in wrong.parent.iterdir() if path != wrong and path.suffix != ".etag"
    ] == []


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


def test_an_archive_without_the_images(toy, get, tmp_path):
    toy(tar({"top/other/1.jpg": JPEG}))
    assert "the archive holds no 'images'" in get("toy").err


def link(name, target, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def tar_of(*members):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        for member in members:
            content = b"evil" if member.isreg() else b""
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
        file.addfile(tarfile.TarInfo("images/1.jpg"), io.BytesIO())
    return data.getvalue()


def zip_of(name, link=False):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        member = zipfile.ZipInfo(name)
        member.external_attr = (0o120777 if link else 0o100644) << 16
        file.writestr(member, "../../../evil" if link else "evil")
        file.writestr("images/1.jpg", "")
    return data.getvalue()


UNSAFE = {
    "up.tar": tar_of(tarfile.TarInfo("images/../../../../evil")),
    "absolute.tar": tar_of(tarfile.TarInfo("ROOT/evil")),
    "symlink.tar": tar_of(link("images/out", "../../../../.."), tarfile.TarInfo("images/out/evil")),
    "absolute link.tar": tar_of(link("images/out", "ROOT"), tarfile.TarInfo("images/out/evil")),
    "hard link.tar": tar_of(link("images/out", "../../../../evil", tarfile.LNKTYPE)),
    "moved link.tar": tar_of(link("images/out", "../elsewhere")),
    "images are a link.tar": tar_of(tarfile.TarInfo("other/2.jpg"), link("images", "other")),
    "device.tar": tar_of(link("images/pipe", "", tarfile.FIFOTYPE)),
    "up.zip": zip_of("images/../../../../evil"),
    "absolute.zip": zip_of("ROOT/evil"),
    "windows.zip": zip_of("images\\..\\..\\..\\..\\evil"),
    "symlink.zip": zip_of("images/out", link=True),
}


@pytest.mark.parametrize("filters", [True, False], ids=["filter", "no filter"])
@pytest.mark.parametrize("name", UNSAFE)
def test_nothing_leaves_the_folder(name, filters, toy, get, tmp_path, monkeypatch):
    if not filters:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    body = UNSAFE[name]
    if b"ROOT" in body:
        body = {
            "absolute.tar": lambda: tar_of(tarfile.TarInfo(f"{tmp_path}/evil")),
            "absolute link.tar": lambda: tar_of(
                link("images/out", str(tmp_path)), tarfile.TarInfo("images/out/evil")
            ),
            "absolute.zip": lambda: zip_of(f"{tmp_path}/evil"),
        }[name]()
    toy(body, name)
    ran = get("toy")
    assert ran.code == 1 and "unsafe" in ran.err, ran.err
    assert not list(tmp_path.rglob("*evil*"))
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"toy", ".toy.lock"}
    assert [path.name for path in (tmp_path / "data/toy").iterdir()] == [name]


def test_links_within_the_images_are_kept(toy, get, tmp_path):
    toy(tar_of(link("images/again.jpg", "1.jpg")), "toy.tar")
    if not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python's tarfile cannot judge links")
    assert get("toy").code == 0
    assert (tmp_path / "data/toy/images/again.jpg").resolve().name == "1.jpg"


def test_one_failure_does_not_stop_the_others(server, table, get):
    server.files = {"b.txt": b"b", "d.txt": b"d"}
    table({
        name: {"folder": name, "files": [{"name": f"{name}.txt", "urls": ["http://x/"]}]}
        for name in "abcd"
    })  # fmt: skip
    ran = get("a", "b", "c", "b", "d", "--mirror", f"{server.url}/")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "not complete: a, c (of 4)"
    assert "b: is complete" in ran.out and "d: is complete" in ran.out


def test_imagenet_is_left_to_the_user(server, get, tmp_path):
    server.files = {"classnames.txt": CLASSNAMES}
    ran = get("imagenet", "--mirror", server.url)
    folder = tmp_path / "data/imagenet"
    assert ran.code == 1 and (folder / "classnames.txt").read_bytes() == CLASSNAMES
    assert "https://image-net.org" in ran.err and f"'{folder}/images/train'" in ran.err
    for part in ("train", "val"):
        (folder / "images" / part).mkdir(parents=True)
    assert get("imagenet").out == f"imagenet: is already in '{folder}'\n"


def test_a_small_disk_is_noticed_before_the_download(toy, get, tmp_path, monkeypatch):
    toy(body := tar(TREE))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(int(len(body) * 1.9)))
    ran = get("toy")
    assert ran.code == 1
    assert re.search(r"6\.\d+MB are needed in '.*toy', but only 5\.\d+MB are free", ran.err)
    assert not (tmp_path / "data/toy/toy.tar.gz.part").exists()


def test_an_archive_that_is_there_is_used_and_kept(server, toy, get, tmp_path):
    archive = tmp_path / "data/toy/toy.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(body := tar(TREE))
    toy(body, md5="0" * 32)
    assert f"'{archive}' is another file, move it away: its md5 is" in get("toy").err
    toy(body, md5=hashlib.md5(body).hexdigest())
    ran = get("toy")
    assert ran.code == 0 and arrived(archive.parent)
    assert f"'{archive}' is not needed any more" in ran.out
    assert archive.exists() and not server.log


def test_what_is_there_is_not_touched(toy, get, tmp_path):
    toy(tar(TREE | {"top/labels.txt": b"new"}), holds={"images": "images", "labels": "labels.txt"})
    mine = tmp_path / "data/toy/images/mine.jpg"
    mine.parent.mkdir(parents=True)
    mine.touch()
    assert get("toy").code == 0
    assert list(mine.parent.iterdir()) == [mine]
    assert (tmp_path / "data/toy/labels").read_bytes() == b"new"


def test_a_second_download_into_a_folder_is_refused(server, toy, get, tmp_path):
    toy(tar(TREE))
    folder = tmp_path / "data/toy"
    folder.mkdir(parents=True)
    with held(folder.with_name(".toy.lock")):
        ran = get("toy")
    assert ran.code == 1 and f"another download is at work in '{folder}'" in ran.err
    assert not server.log and get("toy").code == 0


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["eurosta"], "There is no data set 'eurosta': did you mean 'eurosat'?"),
        (["dtd", "--mirror", "ftp://x"], "--mirror is an address that starts with http(s)://"),
    ],
)
def test_bad_input_is_one_sentence(words, sentence, get):
    ran = get(*words)
    assert ran.code == 2 and sentence in ran.err and ran.err.count("\n") == 1


def test_an_interrupted_download_says_so(toy, get, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    toy(b"")
    monkeypatch.setattr(archives.requests, "get", interrupted)
    ran = get("toy")
    assert ran.code == 130 and "Running the same command again continues." in ran.err


@pytest.fixture
def drive(server, monkeypatch):
    """The small server in the place of Google Drive."""
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
    server.cuts["toy_id"] = [1_000_000]
    ran = get("toy")
    assert ran.code == 1 and "Google Drive cannot be reached or breaks off" in ran.err
    server.log.clear()
    assert get("toy").code == 0 and arrived(tmp_path / "data/toy")
    assert server.log[-1][2] == 206
    assert [path.name for path in (tmp_path / "data/toy").iterdir()] == ["images"]


def test_google_drive_refuses(server, drive, toy, get, tmp_path):
    toy(b"", urls=[], drive="toy_id")
    server.files["toy_id"] = b'<p class="uc-error-subcaption">Too many users have viewed it.</p>'
    server.headers["toy_id"] = {"Content-Type": "text/html"}
    ran = get("toy")
    assert ran.code == 1 and "https://drive.google.com/file/d/toy_id/view" in ran.err
    assert not list((tmp_path / "data/toy").iterdir())
