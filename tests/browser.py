"""A headless Chromium for tests of pages, which reaches this machine alone."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
PATIENCE = 600  # seconds for what a page does by itself, also on a busy machine
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--hide-scrollbars", "--disable-background-networking", "--remote-debugging-pipe",
         "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")  # fmt: skip


class Browser:
    """One tab, driven by Chromium's own protocol: JSON over two pipes, each message ends in a 0."""

    def __init__(self):
        self.folder = tempfile.mkdtemp()
        (read, self.to), (self.back, write) = os.pipe(), os.pipe()
        # the browser reads its file 3 and writes its file 4
        start = f'exec 3<&{read} 4>&{write}; exec "$@"'
        words = ["bash", "-c", start, "-", PROGRAM, *FLAGS, f"--user-data-dir={self.folder}"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*words, "about:blank"], pass_fds=(read, write), **quiet)
        os.close(read), os.close(write)
        self.number, self.session, self.rest, self.events = 0, None, b"", []
        targets = self.call("Target.getTargets")["targetInfos"]
        tab = next(one["targetId"] for one in targets if one["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method, **params):
        """Return the result of a command; events before it are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                part = os.read(self.back, 1 << 20)
                assert part, "the browser has ended"
                self.rest += part
            one, _, self.rest = self.rest.partition(b"\0")
            reply = json.loads(one)
            if reply.get("id") == self.number:
                assert "error" not in reply, reply
                return reply["result"]
            self.events.append(reply)

    def run(self, code):
        """Return the value of an expression of JavaScript, which may be a promise."""
        done = self.call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def wait(self, code):
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + PATIENCE
        while not (value := self.run(code)):
            assert time.monotonic() < end, f"not within {PATIENCE} s: {code}"
            time.sleep(0.05)
        return value

    def open(self, url, width=1200, height=900, dark=False):
        """Open a page in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        look = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=look)
        for place in ("about:blank", url):  # a change of # alone would not load it again
            self.call("Page.navigate", url=place)
        self.wait(f"document.readyState === 'complete' && location.href.startsWith({url!r})")

    def middle(self, selector):
        """Return the middle of an element, scrolled into view."""
        return self.run(
            f"(() => {{ const node = document.querySelector({selector!r});"
            "node.scrollIntoView({block: 'center'}); const at = node.getBoundingClientRect();"
            "return {x: at.x + at.width / 2, y: at.y + at.height / 2}; })()"
        )

    def click(self, selector):
        """Click an element."""
        at = self.middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)

    def press(self, key):
        """Press a key; a letter or digit is typed."""
        more = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        codes = {"Enter": 13, "Backspace": 8, "Tab": 9, "ArrowRight": 39}
        code = codes.get(key, ord(key.upper()[0]))
        self.call(
            "Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def drop(self, selector, files):
        """Drop files on an element."""
        data = {"items": [], "files": [*map(str, files)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, data=data, **self.middle(selector))

    def shoot(self, path):
        """Write a picture of the whole page."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))

    def close(self):
        """End the browser."""
        self.process.terminate()
        self.process.wait(PATIENCE)
        os.close(self.to), os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)
