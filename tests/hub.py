"""A stand-in for the HTTP endpoint of the Hugging Face hub, with one repository: user/repo."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does about user/repo, with files by name; `asked` gets the paths."""

    def __init__(self, files, asked, *connection):
        self.files, self.asked = files, asked
        super().__init__(*connection)

    def log_message(self, *words):
        """Print nothing."""

    def do_GET(self):
        """Describe the repository, list its files, or send one."""
        path = self.path.partition("?")[0]
        self.asked.append(path)
        if path == "/api/models/user/repo/revision/main":
            siblings = [{"rfilename": name} for name in self.files]
            return self.send({"id": "user/repo", "sha": COMMIT, "siblings": siblings})
        if path == f"/api/models/user/repo/tree/{COMMIT}":
            return self.send([
                {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
                for name, content in self.files.items()
            ])  # fmt: skip
        name = path.removeprefix(f"/user/repo/resolve/{COMMIT}/")
        if name in self.files:
            return self.send(self.files[name])
        self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def send(self, content, code=200, headers=()):
        """Send bytes, or an object as JSON."""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {
            "Content-Length": str(len(content)),
            "ETag": f'"{etag(content)}"',
            "X-Repo-Commit": COMMIT,
            **dict(headers),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def stand_in(files: Mapping[str, bytes], monkeypatch, cache) -> Iterator[tuple[str, list[str]]]:
    """Start the stand-in, for this process, too; give its address and the paths it is asked for."""
    from huggingface_hub import constants

    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, files, asked)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)  # read from HF_ENDPOINT on import
        form = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", form)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield address, asked
        server.shutdown()
