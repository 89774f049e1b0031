"""`serve`: a page to drop images on and to label, by HTTP, and in a browser where there is one.

It is long because both ways need the same run and table.
"""

import asyncio
import csv
import io
import json
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import browser
import pytest
import torch
from PIL import Image

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")
from dassl.data.datasets import DATASET_REGISTRY  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

import datasets  # noqa: E402, F401 (registers them)
from trainers.prompting import UserError, build_method, load_clip, load_run  # noqa: E402
from trainers.prompting.building.config import add_nodes, fit_images  # noqa: E402
from trainers.prompting.building.transforms import plain_transform  # noqa: E402
from trainers.prompting.dassl_parts import dassl  # noqa: E402
from trainers.prompting.images import tables  # noqa: E402
from trainers.prompting.record.calibration import Calibration  # noqa: E402
from trainers.prompting.storage.files import hold_lock  # noqa: E402
from trainers.prompting.use import page as pages  # noqa: E402
from trainers.prompting.use.commands import main, serve  # noqa: E402
from trainers.prompting.use.labelling import Labels  # noqa: E402
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
    cfg = dassl("config").get_cfg_default()
    add_nodes(cfg)
    cfg.VERBOSE, cfg.INPUT.TRANSFORMS = False, ["normalize"]
    cfg = fit_images(cfg, clip_model)[0]
    model = build_method("ZeroshotCLIP", {}, clip_model, NAMES).eval()
    logits, labels = torch.randn(50, 4), torch.randint(4, (50,))
    width = model.width
    calibration = replace(
        Calibration.fit(logits, labels, 2.0, torch.linspace(-1, 0, 50)),
        centre=torch.randn(width), classes=torch.randn(4, width),
    )  # fmt: skip
    return Run(model, NAMES, plain_transform(cfg), cfg, "ZeroshotCLIP", "emoji", "out", 0,
               calibration, 2.0)  # fmt: skip


@pytest.fixture
def output(tmp_path):
    """Return an output of `advise` with five images to label."""
    folder = tmp_path / "out"
    folder.mkdir()
    for i in range(5):
        (tmp_path / f"{i}.png").write_bytes(png(colour=(50 * i, 0, 0)))
    (folder / "next.csv").write_text("path,label\n" + "".join(f"../{i}.png,\n" for i in range(5)))
    call = {"source": str(tmp_path), "options": {"next": 3}, "classes": NAMES}
    (folder / "call.json").write_text(json.dumps(call))
    return folder


def client_of(run=None, labels="there is nothing to label"):
    return TestClient(pages.Page(lambda: run, labels).app(), LOCAL, raise_server_exceptions=False)


def labels_of(folder):
    """Return the last label by hand of each image, by the name of its file."""
    rows = tables.read_answers(folder / "labels.csv")
    return {os.path.basename(row.path): row.label for row in rows}


def refused(reply, words, status=400):
    assert reply.status_code == status and words in reply.json()["error"], reply.text
    assert "Traceback" not in reply.text and reply.json().keys() == {"error"}
    assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_an_image_gets_classes_and_an_answer_for_each_error(run):
    content, client = png(), client_of(run)
    about = client.get("/about").json()
    assert about["classes"] == 4 and [error for error, _ in about["errors"]] == [*pages.ERRORS]
    assert "lack their class in the answer" in about["errors"][0][1]
    said = client.post("/classify?error=0.1&error=0.2", content=content).json()
    x = run.preprocess(Image.open(io.BytesIO(content)))[None]
    expected = (run.model(x) / 2)[0].softmax(0).sort(descending=True)
    assert [name for name, _ in said["top"]] == [NAMES[k] for k in expected.indices]
    assert [p for _, p in said["top"]] == pytest.approx(expected.values.tolist())
    assert said["answers"] == [run.classify(x, error)[0]._asdict() for error in (0.1, 0.2)]
    refused(client.post("/classify?error=2", content=content), "must be a number between 0 and 1")
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
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>', "none of the images read"),
        (b"PK\x03\x04 an archive", "none of the images read"),
        (b"hello", "none of the images read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of the images read"),
        (b"", "It is empty"),
        (png()[:-30], "It is damaged"),
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
    refused(client_of(run).post("/classify", content=frames.getvalue()), "It has 2 frames")


def test_a_public_dassl_reads_images_as_it_does(run, monkeypatch):
    monkeypatch.delattr(dassl("utils"), "decode_image")
    assert run.decode(Image.new("L", (3, 3))).mode == "RGB"


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
        ("GET", "/label/0", 405),
        ("DELETE", "/label/0", 405),
        ("GET", "/image/../../../etc/passwd", 404),
        ("GET", "/image/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 404),
        ("GET", "/image/-1", 404),
        ("GET", "/<script>", 404),
    ],
)
def test_there_is_no_such_method_or_path(output, method, path, status):
    reply = client_of(labels=Labels(output)).request(method, path)
    assert reply.status_code == status and len(reply.text) < 20
    assert "default-src 'none'" in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "path", "headers", "words"),
    [
        ("POST", "/undo", {"origin": "http://evil.example"}, "Pages of other origins"),
        ("POST", "/undo", {"origin": "null"}, "Pages of other origins"),
        ("POST", "/undo", {"origin": "http://127.0.0.1:9"}, "Pages of other origins"),
        ("GET", "/image/0", {"sec-fetch-site": "cross-site"}, "Pages of other origins"),
        ("GET", "/", {"host": "evil.example:8000"}, "'evil.example:8000' is not the name"),
        ("GET", "/next", {"host": "[::1"}, "is not the name of this page"),
        ("GET", "/next", {"host": ""}, "is not the name of this page"),
    ],
)
def test_other_origins_and_names_are_refused(output, method, path, headers, words):
    refused(client_of(labels=Labels(output)).request(method, path, headers=headers), words)


def test_own_origins_are_not_refused(output):
    client = client_of(labels=Labels(output))
    for host in ("127.0.0.1:8000", "localhost", "192.168.7.7:80", "[::1]:8000"):
        origin = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        assert client.get("/next", headers=origin).status_code == 200
    text = client.get("/", headers={"sec-fetch-site": "cross-site"}).text  # by a link
    assert "<main>" in text and "http" not in text  # no address


def test_labels_are_written_at_once_and_taken_back(output):
    client = client_of(labels=Labels(output))
    assert client.get("/about").json()["labels"]
    said = client.get("/next").json()
    assert said["classes"] == [*NAMES, "none of these"] and said["waiting"] == [0, 1, 2, 3, 4]
    asked = (output / "next.csv").read_bytes()
    image = Image.open(io.BytesIO(client.get("/image/3").content))
    assert image.format == "JPEG" and image.getpixel((5, 5))[0] == pytest.approx(150, abs=3)
    client.post("/label/3", params={"class": "=1+1"})
    lines = (output / "labels.csv").read_text("utf-8-sig").splitlines()
    assert lines[0] == "path,label,digest" and lines[1].startswith("./../3.png,'=1+1,")
    (output / "labels.csv").write_text("\n".join(lines).replace(",", ";"))  # by a spreadsheet
    client.post("/label/0", params={"class": NAMES[1]})
    client.post("/label/1", params={"class": "none of these"})
    assert labels_of(output) == {"3.png": "=1+1", "0.png": NAMES[1], "1.png": "none of these"}
    again = client_of(labels=Labels(output))  # after a kill
    assert again.get("/next").json()["done"] == 3
    said = client.post("/undo").json()
    assert ({*said["waiting"]}, said["done"], said["index"]) == ({1, 2, 4}, 2, 1) and said["undo"]
    client.post("/undo")
    (output / "next.csv").write_text("path,label\n")  # of a training, which asks for others
    said = client.post("/undo").json()
    assert not said["undo"] and {*said["waiting"]} == {0, 1, 3}
    assert {*labels_of(output).values()} == {""}
    refused(client.post("/undo"), "No label is left")
    assert asked.startswith(b"path,label\n../0.png,\n")


def test_two_who_label(output):
    client = client_of(labels=Labels(output))

    def state(who, path="next", **params):
        method = "GET" if path == "next" else "POST"
        return client.request(method, f"/{path}", params=params | {"by": who})

    first = [state(who).json()["waiting"][0] for who in ("a", "b", "c", "a")]
    assert first == [0, 1, 2, 0]
    client.get("/image/3?by=a")  # which has skipped
    assert state("d").json()["waiting"] == [0, 4, 1, 2, 3]
    state("a", "label/3", **{"class": "bird"})
    refused(state("b", "label/3", **{"class": "drink"}), "was changed elsewhere: it is 'bird' now")
    assert state("b", "label/3", **{"class": "bird"}).status_code == 200  # both agree
    assert len(tables.read_answers(output / "labels.csv")) == 1
    state("a", "undo")
    refused(state("d", "undo"), "No label is left")
    state("d", "label/3", **{"class": "drink"})
    refused(state("b", "undo"), "was changed elsewhere: it is 'drink' now")
    assert labels_of(output) == {"3.png": "drink"}


def test_labels_that_cannot_be_written(output, capfd):
    client = client_of(labels=Labels(output))
    client.get("/next")
    refused(client.post("/label/5?class=bird"), "No image has the index 5")
    refused(client.post("/label/0?class=bur"), "mean 'bird'?")
    refused(client.post("/label/0"), "There is no class ''")
    with hold_lock(output / ".lock"):
        refused(client.post("/label/0?class=bird"), "is being written: label when")
    (output.parent / "3.png").unlink()
    refused(client.get("/image/3"), "3.png' is gone: skip it")
    (output.parent / "2.png").write_text("no image")
    refused(client.get("/image/2"), "it is not an image")
    shutil.rmtree(output)  # meanwhile
    for reply in (client.post("/label/0?class=bird"), client.get("/next")):
        refused(reply, "out' is gone: put it back")
    assert not output.exists() and capfd.readouterr().err == ""
    refused(client_of().post("/label/0?class=bird"), "there is nothing to label")


def test_a_failure_is_told_where_the_server_was_started(run, capfd, monkeypatch):
    monkeypatch.setattr(pages, "likeliest", lambda *_: 1 / 0)
    reply = client_of(run).post("/classify", content=png())
    refused(reply, "The server has failed: the reason is where it was started", 500)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_training_again_calls_advise_and_shows_its_lines(output, monkeypatch, run):
    program, go = output / "python", output / "go"
    code = f"import os, sys\nwhile not os.path.exists({str(go)!r}):\n    pass\n"
    program.write_text(f"#!{sys.executable}\n{code}print(*sys.argv[3:], sep='\\n')\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    call = {"next": 7, "keep-test": True, "device": None, "backbones": "a b", "output": "/else"}
    old = json.loads((output / "call.json").read_text())
    (output / "call.json").write_text(json.dumps(old | {"options": call}))
    loaded = []
    page = pages.Page(lambda: loaded.append(1) or (run if loaded[1:] else None), Labels(output))
    client = TestClient(page.app(), LOCAL, raise_server_exceptions=False)

    def train():
        assert client.post("/again").json()["training"]
        refused(client.post("/again"), "Training has begun")
        go.touch()
        while (said := client.get("/next").json())["training"]:
            time.sleep(0.01)
        return said["log"]

    refused(client.post("/classify", content=png()), "There is no model yet")
    assert train()[1:] == ["advise", "--page", "--next=7", "--keep-test", "--backbones=a b",
                           f"--output={output}", "--", str(output.parent)]  # fmt: skip
    assert client.post("/classify", content=png()).json()["top"]
    shutil.rmtree(output)
    refused(client.post("/again"), "out' is gone: put it back")
    while page.labels.training:
        time.sleep(0.01)
    assert "out' is gone: put it back" in page.labels.log[-1] and not output.exists()


def test_the_command_says_what_is_wrong(tmp_path, capfd, monkeypatch, output):
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: sockets[0].close())

    def said(*words, code):
        assert main(["serve", *map(str, words)]) == code
        return capfd.readouterr()

    assert "'no/run' holds no run to load" in said("no/run", code=2).err
    assert "Port 99999 of '127.0.0.1' cannot be opened" in said(output, "--port", 99999, code=2).err
    with serve.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert "Address already in use" in said(output, "--port", port, code=2).err
    out, err = said(output, "--port", 0, code=0)
    assert out.startswith("http://127.0.0.1:") and not err
    out, err = said(output, "--port", 0, "--host", "0.0.0.0", code=0)
    assert "Warning: this page has no password" in err
    (output / "call.json").write_text("{}")
    assert "holds no run to load" in said(output, code=2).err
    with pytest.raises(UserError, match="call.json' is damaged: repeat `advise` with --next"):
        Labels(output)
    monkeypatch.setattr(serve, "find_spec", lambda name: name != "uvicorn")
    assert "serve needs uvicorn: `pip install starlette uvicorn`" in said(output, code=2).err


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
    tab = tab(pages.Page(lambda: run, "none"), width=390, height=844, dark=True)
    tab.wait("about.method")
    tab.drop("#drop", sorted(tmp_path.iterdir()))
    tab.wait("items.length === 3 && items.every((x) => x.said || x.failed)")
    texts = tab.run("[...$('answers').children].map((x) => x.innerText)")
    assert texts[0].startswith("<script>alert(1)<b>.png\n") and "none of the images" in texts[2]
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
def test_from_no_labels_to_a_model_in_a_browser(tab, tmp_path):
    _, parts = DATASET_REGISTRY.get("Emoji").look("")
    truth, names = {}, ["animal bird", "drink"]
    (tmp_path / "own" / "unlabelled").mkdir(parents=True)
    for name in names:
        (tmp_path / "own" / name).mkdir()
        of_class = [x.impath for x in parts[0] if x.classname == name][:8]
        for path in of_class:
            place = tmp_path / "own" / "unlabelled" / f"{len(truth)}.webp"
            shutil.copy(path, place)
            truth[str(place)] = name
    out = tmp_path / "out"
    words = ["--output", str(out), "--backbones", "emoji", "--next", "8"]
    assert main(["advise", str(tmp_path / "own"), *words]) == 0
    page = serve.build_page(SimpleNamespace(
        model_dir=str(out), device="cpu", load_epoch=None, backbone=None, plugin=[], trust_run=False
    ))  # fmt: skip
    tab = tab(page)
    tab.wait("next.waiting?.length === 8")
    assert tab.run("location.hash") == "" and tab.run("$('classify').hidden")
    drawn(tab)
    order = [row.path for row in tables.read_images(out / "next.csv", unlabelled=True)]
    tab.click("#names button:nth-child(2)")
    tab.wait("next.done === 1")
    assert [*labels_of(out).values()] == ["drink"]
    tab.press("Backspace")
    tab.wait("next.done === 0")
    for i, path in enumerate(order):
        tab.press(str(1 + names.index(truth[path])))
        tab.wait(f"next.done === {i + 1}")
    assert labels_of(out) == {os.path.basename(path): truth[path] for path in order}
    tab.click("#again")
    tab.wait("about.method && !next.training && next.waiting.length === 8")
    log = tab.run("$('log').textContent")
    assert "Take " in log and "8 images, on this page" in log and "next.csv" not in log
    assert tab.run("$('classify').hidden && !$('label').hidden")
    tab.press("Backspace")  # reaches back over the training
    tab.wait("next.done === 7 && next.waiting.length === 9")
    drawn(tab)
    trained, files = load_run(out), list(truth)
    expected = trained.model(torch.stack([trained.preprocess(trained.read(x)) for x in files]))
    tab.click("nav a")
    tab.drop("#drop", files)
    tab.wait("items.length === 16 && items.every((x) => x.said)")
    answers = tab.run("items.map((x) => x.said.top[0][0])")
    assert answers == [names[k] for k in expected.argmax(1)]
    drawn(tab)
