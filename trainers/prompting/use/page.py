"""The application of `serve`: a page to drop images on."""

import asyncio
import base64
import hashlib
import io
import ipaddress
import re
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .. import advice
from ..errors import UserError, by_system, need, printable
from ..images.image_files import read_single
from .commands.predict import likeliest, send
from .run import Run

Image.init()
FORMATS = [
    x for x in ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"] if x in Image.OPEN
]
ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2)
LARGEST = 50_000_000  # bytes of an image
TOP = 5  # classes of an image
HTML = Path(__file__).with_name("page.html").read_text("utf-8")
HTML = HTML.replace("/* page.css */", Path(advice.__file__).with_name("page.css").read_text())


def _hash_of(tag: str) -> str:
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", HTML, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {_hash_of('style')}; script-src {_hash_of('script')}; "
    "connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
]


class Page:
    """A run behind a page. Models and decoders work in one thread."""

    def __init__(self, run: Run):
        self.run, self._thread = run, ThreadPoolExecutor(1)

    def app(self) -> Starlette:
        """Return the application."""
        routes = [Route("/", self.html), Route("/about", self.about)]
        routes += [Route("/classify", self.classify, methods=["POST"])]
        return Starlette(routes=routes, middleware=[Middleware(Guard)])

    def html(self, request: Request) -> Response:
        """Answer with the page."""
        return HTMLResponse(HTML)

    def about(self, request: Request) -> Response:
        """Answer with what the run is, and can answer."""
        run, said = self.run, dict[str, Any](largest=LARGEST)
        said |= {"method": run.method, "backbone": run.backbone, "classes": len(run.classnames)}
        if run.several:
            run.find_thresholds()
            said |= {"why": "Tags; no tag is an answer."}
        elif isinstance(run.calibration, str):
            said |= {"why": f"Probabilities alone; this run is not calibrated: {run.calibration}."}
        else:
            said |= {"errors": [(error, run.calibration.promise(error)) for error in ERRORS]}
        return JSONResponse(said)

    async def classify(self, request: Request) -> Response:
        """Answer with the classes of the image in the body, and an answer for each `error`.

        A run on images with several labels answers with `tags`, and `scores` by name.
        """
        content, errors = bytearray(), request.query_params.getlist("error")
        async for chunk in request.stream():
            content += chunk
            need(len(content) <= LARGEST, f"It has more than {LARGEST:,} bytes: send a smaller one")
        work = asyncio.get_running_loop().run_in_executor
        return JSONResponse(await work(self._thread, self._classify, bytes(content), errors))

    @torch.no_grad()
    def _classify(self, content: bytes, errors: list[str]) -> dict[str, Any]:
        run = self.run
        image = run.preprocess(read_single(io.BytesIO(content), FORMATS))
        batch = send(torch.utils.data.default_collate([image]), run.model.device)
        output = run.model.predict(batch)
        if run.several:
            need(not errors, "An error is for one label an image, but this run gives several")
            ((tags, scores),) = run.tags(output, images=["this image"])
            return {"tags": tags, "scores": dict(zip(run.classnames, scores, strict=True))}
        (top,) = likeliest(run, TOP, ["this image"], output)
        answers = [run.answers(output, float(error))[0]._asdict() for error in errors]
        return {"top": top, "answers": answers}


class Guard:
    """Refuses pages of other origins, adds HEADERS, and answers errors with sentences."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request."""

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        try:
            if scope["type"] == "http":
                _check_origin(Headers(scope=scope), scope["path"])
            await self.app(scope, receive, answer)
        except ClientDisconnect:
            pass  # nobody waits for an answer
        except Exception as error:
            said, status = _sentence(error)
            await JSONResponse({"error": said}, status)(scope, receive, answer)


def _check_origin(headers: Headers, path: str) -> None:
    """Refuse what a page of another origin asks, also by a name of its own that leads here."""
    host, site = headers.get("host", ""), headers.get("sec-fetch-site", "none")
    try:
        if (name := urlsplit(f"//{host}").hostname) != "localhost":
            ipaddress.ip_address(name or "")
    except ValueError:
        raise UserError(f"'{host}' is not the name of this page: use its address") from None
    own = headers.get("origin", f"http://{host}").partition("://")[2] == host
    need(
        own and (path == "/" or site in ("none", "same-origin")),
        "Pages of other origins may not ask here: open this page itself",
    )


def _sentence(error: Exception) -> tuple[str, int]:
    """Return an error in a sentence, and a status; one that is no user's goes to stderr in full."""
    said = by_system(error) or error
    if hasattr(said, "exit_code"):
        return printable(said), 400
    traceback.print_exception(error, file=sys.stderr)
    return "The server has failed: the reason is where it was started", 500
