"""Fixtures: a local HTTP server, the command that downloads from it, and a toy data set."""

import hashlib
import re
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import datasets  # noqa: F401 (registers the data sets)
from benchmark.__main__ import main
from benchmark.data import download


class Server(ThreadingHTTPServer):
    """Serves `files`; other attributes make it misbehave for some of them."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {}
        self.cuts = {}  # name: numbers of bytes after which the next connections break off
        self.no_ranges = False
        self.bad_ranges = False  # answer 416 to every range
        self.headers = {}  # name: further headers to send
        self.redirects = {}  # name: address to redirect to
        self.log = []  # (name, Range, status)

    def handle_error(self, *_):
        """Print nothing when a client closes the connection."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(only_headers=True)

    def do_GET(self, only_headers=False):
        server = self.server
        name = unquote(urlsplit(self.path).path).lstrip("/")
        wanted = self.headers.get("Range")
        if name in server.redirects:
            self.send_response(302)
            self.send_header("Location", server.redirects[name])
            self.send_header("Content-Length", "0")
            for header, value in server.headers.get(name, {}).items():
                self.send_header(header, value)
            self.end_headers()
            return
        body = server.files.get(name)
        start, status = 0, 404 if body is None else 200
        etag = body and f'"{hashlib.md5(body).hexdigest()}"'
        same = self.headers.get("If-Range", etag) == etag
        if body and wanted and same and not server.no_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            status = 206 if start < len(body) and not server.bad_ranges else 416
        if not only_headers:
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
        if only_headers:
            return
        if cuts := server.cuts.get(name):
            content = content[: cuts.pop(0)]
            self.close_connection = True
        self.wfile.write(content)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda *_: 0)  # of gdown: no pauses
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


Ran = namedtuple("Ran", "code out err")


@pytest.fixture
def get(tmp_path, capsys):
    """A function that runs `download NAME ... --root tmp_path/data` and returns the outcome."""

    def call(*words):
        code = main(["download", *words, "--root", str(tmp_path / "data")])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A function that replaces the table of configs/downloads.yaml."""

    def use(entries):
        path = tmp_path / "table.yaml"
        path.write_text(yaml.safe_dump(entries))
        monkeypatch.setattr(download, "TABLE", path)

    return use


@pytest.fixture
def toy(server, table):
    """A function that serves `body` as the archive of a data set `toy`."""

    def use(body, name="toy.tar.gz", **fields):
        server.files[name] = body
        file = {"name": name, "urls": [f"{server.url}/{name}"], "holds": {"images": "images"}}
        table({"toy": {"folder": "toy", "files": [file | fields]}})

    return use
