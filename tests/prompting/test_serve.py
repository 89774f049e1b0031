"""`serve`: a page to drop images on, by HTTP, and in a browser where there is one."""

import asyncio
import csv
import io
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import browser
import pytest
import torch
from PIL import Image

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
from starlette.testclient import TestClient  # noqa: E402

from trainers.prompting import build_method, load_clip  # noqa: E402
from trainers.prompting.building.transforms import Images, Plain  # noqa: E402
from trainers.prompting.record.calibration import Calibration  # noqa: E402
from trainers.prompting.record.thresholds import Thresholds  # noqa: E402
from trainers.prompting.use import page as pages  # noqa: E402
from trainers.prompting.use.commands import main, serve  # noqa: E402
from trainers.prompting.use.run import Run  # noqa: E402

NAMES = ["bird", "<script>alert(1)</script>", "=1+1", "drink"]
LOCAL = "http://127.0.0.1:8000"


def png(size=(40, 30), colour="red", mode="RGB"):
    content = io.BytesIO()
    Image.new(mode, size, colour).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def run():
    """Return a run of zero-shot CLIP, as from `load_run`, with a calibration."""
    clip_model = load_clip("emoji")
    model = build_method("ZeroshotCLIP", {}, clip_model, NAMES).eval()
    logits, labels = torch.randn(50, 4), torch.randint(4, (50,))
    width = model.width
    calibration = replace(
        Calibration.fit(logits, labels, 2.0, torch.linspace(-1, 0, 50)),
        centre=torch.randn(width), classes=torch.randn(4, width),
    )  # fmt: skip
    images = Images.of(clip_model)
    return Run(model, NAMES, Plain(images), {}, images, "ZeroshotCLIP", "emoji", "out", 0,
               calibration, 2.0)  # fmt: skip


def client_of(run):
    return TestClient(pages.Page(run).app(), LOCAL, raise_server_exceptions=False)


def refused(reply, words, status=400):
    assert reply.status_code == status and words in reply.json()["error"], reply.text
    assert "Traceback" not in reply.text and reply.json().keys() == {"error"}
    assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_an_image_gets_classes_and_an_answer_for_each_error(run):
    content, client = png(), client_of(run)
    about = client.get("/about").json()
    assert about["classes"] == 4 and [error for error, _ in about["errors"]] == [*pages.ERRORS]
    few, enough = about["errors"][0][1], about["errors"][2][1]  # 1%, 5%
    assert "take 0.02 or more" in few and "lack their class in the answer" in enough
    said = client.post("/classify?error=0.1&error=0.2", content=content).json()
    x = run.preprocess(Image.open(io.BytesIO(content)))[None]
    expected = (run.model(x) / 2)[0].softmax(0).sort(descending=True)
    assert [name for name, _ in said["top"]] == [NAMES[k] for k in expected.indices]
    assert [p for _, p in said["top"]] == pytest.approx(expected.values.tolist())
    assert said["answers"] == [run.classify(x, error)[0]._asdict() for error in (0.1, 0.2)]
    refused(client.post("/classify?error=2", content=content), "must be between 0 and 1")
    bare = client_of(Run(**vars(run) | {"calibration": "no image was left"}))
    about = bare.get("/about").json()
    assert "errors" not in about and about["why"].endswith("not calibrated: no image was left.")
    assert len(bare.post("/classify", content=content).json()["top"]) == 4
    refused(bare.post("/classify?error=0.1", content=content), "is not calibrated")


def test_ten_images_at_once_are_read_and_answered_one_after_the_other(run, monkeypatch):
    inside, most, predict = [], [], run.model.predict

    def watched(images):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        output = predict(images)
        inside.pop()
        return output

    monkeypatch.setattr(type(run.model), "predict", lambda _, images: watched(images))
    contents = [png(colour=(25 * i, 200, 0)) for i in range(10)]
    client = client_of(run)
    with client, ThreadPoolExecutor(10) as pool:
        replies = [*pool.map(lambda x: client.post("/classify", content=x), contents)]
    assert most == [1] * 10
    alone = [client_of(run).post("/classify", content=x).json() for x in contents]
    assert [reply.json() for reply in replies] == alone


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "it is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is not an image"),
        (png()[:-30], "OSError "),
        (png((20_000, 20_000), mode="1", colour=0), "exceeds limit"),
    ],
)
def test_what_is_no_image_gets_a_sentence(run, content, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(client_of(run).post("/classify", content=content), words)
    assert not os.listdir(tmp_path)


def test_an_image_of_sixty_megapixels_and_one_of_several_frames(run):
    large = png((10_000, 6_000), mode="1", colour=0)
    assert client_of(run).post("/classify", content=large).json()["top"]
    frames, first = io.BytesIO(), Image.new("L", (9, 9))
    first.save(frames, "GIF", save_all=True, append_images=[Image.new("L", (9, 9), 9)])
    refused(client_of(run).post("/classify", content=frames.getvalue()), "it has 2 frames")


def test_large_and_half_bodies(run, capfd):
    client = client_of(run)
    refused(
        client.post("/classify", content=b"x" * (pages.LARGEST + 1)), "more than 50,000,000 bytes"
    )
    messages = [{"type": "http.request", "body": png()[:50], "more_body": True}]
    messages += [{"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": "/classify", "query_string": b"",
             "headers": [(b"host", b"127.0.0.1")]}  # fmt: skip
    coming, sent = iter(messages), []

    async def receive():
        return next(coming)

    async def send(message):
        sent.append(message)

    asyncio.run(client.app(scope, receive, send))
    assert not sent and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/classify", 405),
        ("DELETE", "/about", 405),
        ("GET", "/../../../etc/passwd", 404),
        ("GET", "/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("GET", "/<script>", 404),
    ],
)
def test_there_is_no_such_method_or_path(run, method, path, status):
    reply = client_of(run).request(method, path)
    assert reply.status_code == status and len(reply.text) < 20
    assert "default-src 'none'" in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "words"),
    [
        ("POST", "/classify", {"origin": "http://evil.example"}, "Pages of other origins"),
        ("POST", "/classify", {"origin": "null"}, "Pages of other origins"),
        ("POST", "/classify", {"origin": "http://127.0.0.1:9"}, "Pages of other origins"),
        ("GET", "/about", {"sec-fetch-site": "cross-site"}, "Pages of other origins"),
        ("GET", "/", {"host": "evil.example:8000"}, "'evil.example:8000' is not the name"),
        ("GET", "/about", {"host": "[::1"}, "is not the name of this page"),
        ("GET", "/about", {"host": ""}, "is not the name of this page"),
    ],
)
def test_other_origins_and_names_are_refused(run, method, path, headers, words):
    refused(client_of(run).request(method, path, headers=headers), words)


def test_own_origins_are_not_refused(run):
    client = client_of(run)
    for host in ("127.0.0.1:8000", "localhost", "192.168.7.7:80", "[::1]:8000"):
        origin = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        assert client.get("/about", headers=origin).status_code == 200
    text = client.get("/", headers={"sec-fetch-site": "cross-site"}).text  # by a link
    assert "<main>" in text and "http" not in text  # no address


def test_a_failure_is_told_where_the_server_was_started(run, capfd, monkeypatch):
    monkeypatch.setattr(pages, "likeliest", lambda *_: 1 / 0)
    reply = client_of(run).post("/classify", content=png())
    refused(reply, "The server has failed: the reason is where it was started", 500)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_command_says_what_is_wrong(capfd, monkeypatch, run):
    load = serve.load_run
    monkeypatch.setattr(serve, "load_run", lambda args, several: run)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())

    def said(*words, code):
        assert main(["serve", *map(str, words)]) == code
        return capfd.readouterr()

    with serve.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert "Address already in use" in said("out", "--port", port, code=2).err
    out, err = said("out", "--port", 0, code=0)
    assert out.startswith("http://127.0.0.1:") and not err
    out, err = said("out", "--port", 0, "--host", "0.0.0.0", code=0)
    assert "Warning: this page has no password" in err
    monkeypatch.setattr(serve, "load_run", load)
    assert "'no/run' holds no run to load" in said("no/run", code=2).err


@pytest.fixture
def tab(monkeypatch):
    """Return a function that serves a page and opens it in a tab of Chromium."""
    if browser.PROGRAM is None:
        pytest.skip("there is no Chromium here")
    tab, servers = browser.Browser(), []

    def opened(page, **how):
        listening = serve.listen("127.0.0.1", 0)
        server = uvicorn.Server(uvicorn.Config(page.app(), log_level="warning"))
        servers.append((server, threading.Thread(target=server.run, args=([listening],))))
        servers[-1][1].start()
        tab.url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        tab.open(tab.url, **how)
        return tab

    yield opened
    tab.close()
    for server, thread in servers:
        server.should_exit = True
        thread.join(30)


def drawn(tab):
    """Assert that a page is whole: it fits, and nothing was blocked, failed or asked elsewhere."""
    assert tab.run("document.documentElement.scrollWidth <= innerWidth")
    images = "[...document.images].filter((x) => x.src && x.getClientRects().length)"
    tab.wait(f"{images}.every((x) => x.complete && x.naturalWidth > 0)")
    logged = [e["params"] for e in tab.events if e["method"] in ("Log.entryAdded",
              "Runtime.exceptionThrown")]  # fmt: skip
    assert [x for x in logged if "status of 400" not in str(x)] == []  # of what is no image
    asked = {e["params"]["request"]["url"] for e in tab.events
             if e["method"] == "Network.requestWillBeSent"}  # fmt: skip
    assert all(url.startswith((tab.url, "blob:", "data:", "about:")) for url in asked), asked


@pytest.mark.slow
def test_images_are_dropped_in_a_browser(run, tab, tmp_path):
    for name, content in (
        ("<script>alert(1)<b>.png", png()),
        ("=2.png", png()),
        ("x.svg", b"<svg/>"),
    ):
        (tmp_path / name).write_bytes(content)
    tab = tab(pages.Page(run), width=390, height=844, dark=True)
    tab.wait("about.method")
    tab.drop("#drop", sorted(tmp_path.iterdir()))
    tab.wait("items.length === 3 && items.every((x) => x.said || x.failed)")
    texts = tab.run("[...$('answers').children].map((x) => x.innerText)")
    assert texts[0].startswith("<script>alert(1)<b>.png\n") and "it is not an image" in texts[2]
    assert NAMES[1] in texts[0] and tab.run("document.querySelectorAll('script').length") == 1
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
    drawn(tab)
    tab.run("$('error').focus()")
    assert tab.run("$('error').value") == "0.05"
    for _ in range(2):
        tab.press("ArrowDown")  # 0.2
    expected = run.classify(run.preprocess(Image.open(tmp_path / "=2.png"))[None], 0.2)[0]
    rows = [*csv.reader(io.StringIO(tab.run("table()")))]
    assert rows[0] == ["image", "answer", "classes", "p", "likeness"] and len(rows) == 3
    answer = "'=1+1" if expected.answer == "=1+1" else expected.answer
    assert rows[2][:2] == ["'=2.png", answer] and tab.run("$('error').value") == "0.2"
    assert [float(p) for p in rows[2][3].split("; ")] == pytest.approx(expected.p, rel=1e-4)
    tab.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "down"))
    tab.click("#save")
    tab.click("#clear")
    assert tab.run("$('answers').children.length") == 0
    end = time.monotonic() + browser.PATIENCE
    while not (saved := tmp_path / "down" / "answers.csv").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert [*csv.reader(io.StringIO(saved.read_text("utf-8-sig")))] == rows
    assert saved.read_bytes().startswith(b"\xef\xbb\xbf")


@pytest.mark.slow
def test_tags_are_shown_in_a_browser(run, tab, tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    model = build_method("ZeroshotCLIP", {}, load_clip("emoji"), NAMES, several=True).eval()
    logits = model(run.preprocess(Image.open(tmp_path / "a.png"))[None])[0].detach()
    kept = Thresholds(logits.double().numpy() + [0, 1, 0, 1])
    several = replace(run, model=model, calibration="it has several labels", thresholds=kept)
    tab = tab(pages.Page(several), width=390, height=844)
    tab.wait("about.method")
    tab.drop("#drop", [tmp_path / "a.png"])
    tab.wait("items[0]?.said")
    assert tab.run("document.querySelector('li strong').innerText") == "bird, =1+1"
    assert tab.run("$('asked').hidden") and tab.run("$('promise').innerText").startswith("Tags")
    head, row = csv.reader(io.StringIO(tab.run("table()")))
    assert head == ["image", "tags", "bird", NAMES[1], "'=1+1", "drink"]
    assert row[:2] == ["a.png", "bird;=1+1"]
    assert [float(x) for x in row[2:]] == pytest.approx(logits.tolist(), rel=1e-4)
    drawn(tab)
