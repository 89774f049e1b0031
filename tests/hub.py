"""A stand-in for the HTTP endpoint of the Hugging Face hub, with one repository: user/repo.

The branch `main` has all files; the branch `old/one` and pull request 1 have the first one.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD = COMMIT[::-1]
REVISIONS = {"main": COMMIT, "old%2Fone": OLD, "refs%2Fpr%2F1": OLD, OLD: OLD}


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
        commit = OLD if OLD in path else COMMIT
        if path.startswith(start := "/api/models/user/repo/revision/"):
            if commit := REVISIONS.get(path.removeprefix(start)):
                siblings = [{"rfilename": name} for name in self.at(commit)]
                return self.send({"id": "user/repo", "sha": commit, "siblings": siblings})
            return self.refuse("RevisionNotFound")
        if path == f"/api/models/user/repo/tree/{commit}":
            return self.send([
                {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
                for name, content in self.at(commit).items()
            ])  # fmt: skip
        name = path.removeprefix(f"/user/repo/resolve/{commit}/")
        if name in self.at(commit):
            return self.send(self.files[name], commit=commit)
        self.refuse("RepoNotFound")

    do_HEAD = do_GET

    def at(self, commit):
        """Return the files of a commit."""
        return dict(list(self.files.items())[: 1 if commit == OLD else None])

    def refuse(self, why):
        """Send an error as the hub does."""
        self.send({"error": why}, 404, {"X-Error-Code": why})

    def send(self, content, code=200, headers=(), commit=COMMIT):
        """Send bytes, or an object as JSON."""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(code)
        for name, value in {
            "Content-Length": str(len(content)),
            "ETag": f'"{etag(content)}"',
            "X-Repo-Commit": commit,
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
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", address)  # read from HF_ENDPOINT on import
        form = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", form)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        yield address, asked
        server.shutdown()
