"""Headless Chromium through its DevTools protocol: pages as a user sees them, and their errors."""

from __future__ import annotations

import asyncio
import base64
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_START_SECONDS = 60.0


def screenshots():
    """The folder that keeps what tests saw, to be looked at."""
    folder = Path(__file__).parents[1] / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Page:
    """A tab.

    ``errors`` has what the page complained about: exceptions, console errors, failed requests.
    """

    def __init__(self, loop, socket):
        self._loop = loop
        self._socket = socket
        self._sent = 0
        self._answers = {}
        self.errors = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """One command of the protocol; its result."""
        self._sent += 1
        number = self._sent
        message = {"id": number, "method": method, "params": parameters}
        self._loop.run_until_complete(self._socket.send_json(message))
        while number not in self._answers:
            self._read(30.0)
        answer = self._answers.pop(number)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address):
        """Go to an address."""
        self.call("Page.navigate", url=address)

    def size(self, width, height, *, scale=1):
        """Make the window so large, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )

    def value(self, expression):
        """What a JavaScript expression, or the promise that it is, comes to."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    @property
    def text(self):
        """All text that the page shows."""
        return self.value("document.body ? document.body.innerText : ''")

    def wait_for(self, expression, seconds=60.0):
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.value(f"Boolean({expression})"):
            assert time.monotonic() < end, f"not within {seconds} s: {expression}\n{self.text}"
            self._read(0.2)

    def wait_for_text(self, text, seconds=60.0):
        """Wait until the page shows a text."""
        self.wait_for(f"document.body?.innerText.includes({text!r})", seconds)

    def click(self, expression):
        """Click on the element that a JavaScript expression finds, as the mouse does."""
        place = (
            f"(() => {{ const e = {expression}; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        x, y = self.value(place)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path):
        """Write what the window shows as PNG."""
        data = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def _read(self, seconds):
        try:
            message = self._loop.run_until_complete(
                asyncio.wait_for(self._socket.receive_json(), seconds)
            )
        except TimeoutError:
            return
        if "id" in message:
            self._answers[message["id"]] = message
            return
        content = message["params"]
        if message["method"] == "Runtime.exceptionThrown":
            details = content["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif message["method"] == "Runtime.consoleAPICalled" and content["type"] == "error":
            said = [str(a.get("value", a.get("description"))) for a in content["args"]]
            self.errors.append(" ".join(said))
        elif message["method"] == "Log.entryAdded" and content["entry"]["level"] == "error":
            entry = content["entry"]
            self.errors.append(f"{entry['text']} {entry.get('url', '')}")


@contextmanager
def browser_page(width=1400, height=1000):
    """A page in a browser of its own."""
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
        command += ["--no-first-run", "--disable-background-networking", "--hide-scrollbars"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        loop = asyncio.new_event_loop()
        try:
            port = _port(process, Path(profile, "DevToolsActivePort"))
            session = loop.run_until_complete(_session())
            try:
                socket = loop.run_until_complete(_connect(session, port))
                page = Page(loop, socket)
                page.size(width, height)
                yield page
            finally:
                loop.run_until_complete(session.close())
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            loop.close()


def _port(process, file):
    end = time.monotonic() + _START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        lines = file.read_text().splitlines() if file.exists() else []
        if len(lines) > 1:
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("the browser did not start")


async def _session():
    return aiohttp.ClientSession()


async def _connect(session, port):
    async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
        pages = [page for page in await answer.json() if page["type"] == "page"]
    return await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
