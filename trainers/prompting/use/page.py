"""The application of `serve`: a page to drop images on, and to label those that `advise` picked."""

import asyncio
import base64
import hashlib
import io
import ipaddress
import re
import sys
import threading
import traceback
from collections.abc import Callable
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

from ..advice import page as advice_page
from ..advice.images import read_image
from ..errors import UserError, by_system, in_short, need, printable
from ..images.image_files import check_image
from ..record.calibration import check_error
from .commands.predict import likeliest, send
from .labelling import Labels
from .run import Run

Image.init()
FORMATS = [x for x in ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"] if x in Image.OPEN]
ERRORS = (0.01, 0.02, 0.05, 0.1, 0.2)
LARGEST = 50_000_000  # bytes of an image
TOP, SIDE = 5, 1_000  # classes of an image; pixels of one to label
HTML = Path(__file__).with_name("page.html").read_text("utf-8")
HTML = HTML.replace("/* page.css */", Path(advice_page.__file__).with_name("page.css").read_text())


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
    """A run, and images to label, behind a page. Models and decoders work in one thread.

    Attributes:
        run: None until there is one.
        labels: or the sentence why there are none.
    """

    def __init__(self, load: Callable[[], Run | None], labels: Labels | str):
        self.load, self.run, self.labels = load, load(), labels
        self._thread = ThreadPoolExecutor(1)

    def app(self) -> Starlette:
        """Return the application."""
        reads = {"/": self.html, "/about": self.about, "/next": self.next}
        changes = {"/undo": self.undo, "/again": self.again, "/label/{index:int}": self.label}
        routes = [Route(path, answer) for path, answer in reads.items()]
        routes += [Route(path, answer, methods=["POST"]) for path, answer in changes.items()]
        routes += [Route("/classify", self.classify, methods=["POST"])]
        routes += [Route("/image/{index:int}", self.image)]
        return Starlette(routes=routes, middleware=[Middleware(Guard)])

    def html(self, request: Request) -> Response:
        """Answer with the page."""
        return HTMLResponse(HTML)

    def about(self, request: Request) -> Response:
        """Answer with what the run is, and can answer."""
        said: dict[str, Any] = {"largest": LARGEST, "labels": isinstance(self.labels, Labels)}
        if (run := self.run) is None:
            return JSONResponse(said)
        said |= {"method": run.method, "backbone": run.backbone, "classes": len(run.classnames)}
        if isinstance(run.calibration, str):
            said |= {"why": f"Probabilities alone; this run is not calibrated: {run.calibration}."}
        else:
            said |= {"errors": [(error, run.calibration.promise(error)) for error in ERRORS]}
        return JSONResponse(said)

    async def classify(self, request: Request) -> Response:
        """Answer with the classes of the image in the body, and an answer for each `error`."""
        content, errors = bytearray(), request.query_params.getlist("error")
        async for chunk in request.stream():
            content += chunk
            need(len(content) <= LARGEST, f"It has more than {LARGEST:,} bytes: send a smaller one")
        work = asyncio.get_running_loop().run_in_executor
        return JSONResponse(await work(self._thread, self._classify, bytes(content), errors))

    @torch.no_grad()
    def _classify(self, content: bytes, errors: list[str]) -> dict[str, Any]:
        if (run := self.run) is None:
            raise UserError("There is no model yet: label images, and train")
        image = run.preprocess(_decode(content, run.decode))
        batch = send(torch.utils.data.default_collate([image]), run.model.device)
        output = run.model.predict(batch)
        ((_, top),) = likeliest(run, TOP, [Path("this image")], output)
        answers = [run.answers(output, check_error(error))[0]._asdict() for error in errors]
        return {"top": top, "answers": answers}

    def next(self, request: Request, **more: Any) -> Response:
        """Answer with the images that wait for a label, and what training says."""
        return JSONResponse(self._labels().state(_who(request)) | more)

    def _labels(self) -> Labels:
        if isinstance(self.labels, str):
            raise UserError(self.labels)
        return self.labels

    def image(self, request: Request) -> Response:
        """Answer with an image to label, as a JPEG."""
        path = self._labels().path(request.path_params["index"], _who(request))
        return Response(self._thread.submit(_jpeg, path).result(), media_type="image/jpeg")

    def label(self, request: Request) -> Response:
        """Write a label, `class`."""
        name = request.query_params.get("class", "")
        self._labels().label(request.path_params["index"], name, _who(request))
        return self.next(request)

    def undo(self, request: Request) -> Response:
        """Take the last label back."""
        return self.next(request, index=self._labels().undo(_who(request)))

    def again(self, request: Request) -> Response:
        """Begin to train again."""
        labels = self._labels()
        need(not labels.training, "Training has begun: wait until it ends")
        labels.training, labels.log = True, []
        threading.Thread(target=self._train, args=(labels,), daemon=True).start()
        return self.next(request)

    def _train(self, labels: Labels) -> None:
        try:
            labels.train()
            self.run = self._thread.submit(self.load).result() or self.run
        except Exception as error:
            labels.log.append(_sentence(error)[0])
        finally:
            labels.training = False


def _who(request: Request) -> str:
    return request.query_params.get("by", "")[:40]


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


def _decode(content: bytes, decode: Callable[[Any], Any]) -> Any:
    """Return an image in memory as the run's evaluation reads it."""
    need(content, "It is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            check_image(image)
            return decode(image)
    except Image.UnidentifiedImageError:
        raise UserError(
            f"It is none of the images read here ({', '.join(FORMATS)}): convert it to JPEG"
        ) from None
    except Exception as error:  # decoders raise nearly every type there is
        said = str(error) if hasattr(error, "exit_code") else f"It is damaged ({in_short(error)})"
        raise UserError(said[0].upper() + said[1:]) from None


def _jpeg(path: str) -> bytes:
    """Return an image of the table as a JPEG of at most SIDE pixels a side; raises UserError."""
    need(Path(path).is_file(), f"'{path}' is gone: skip it")
    image, content = read_image(path), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(content, "JPEG", quality=90)
    return content.getvalue()
