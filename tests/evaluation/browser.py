"""A page in a real browser, driven over the DevTools protocol.

Knows nothing of the report. `browse` in conftest.py hands it to tests.
"""

import asyncio
import base64
import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp

PATIENCE_S = 60.0  # how long a browser may take for anything; reached only when something is broken


class BrowserMissing(Exception):
    """There is no browser here, or it cannot run here; says why."""


class Page:
    """One page. `events` are the protocol's, in order; `evaluate` runs a script and returns its value."""

    def __init__(self, loop, wire):
        self._loop, self._wire = loop, wire
        self._last_id = 0
        self.events = []

    def call(self, method, **params):
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), PATIENCE_S))

    async def _call(self, method, params):
        self._last_id += 1
        await self._wire.send_json({"id": self._last_id, "method": method, "params": params})
        while True:
            message = await self._wire.receive_json()
            if message.get("id") == self._last_id:
                assert "error" not in message, f"{method}: {message['error']}"
                return message["result"]
            self.events.append(message)

    def evaluate(self, script):
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition):
        """Waits, in the page, until a script's value is true."""
        script = f"new Promise(d => {{ const l = () => ({condition}) ? d(true) : requestAnimationFrame(l); l(); }})"
        return self.evaluate(script)

    def open(self, path, ready):
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait(f"document.readyState === 'complete' && ({ready})")

    def show_as(self, *, width, height=900, scheme="light", phone=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def photograph(self):
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def complaints(self):
        """What the page reported as wrong: errors and warnings of its script, of its console and of its policy."""
        self.call("Runtime.evaluate", expression="0")  # events that were on their way arrive before its answer
        return [
            event["params"]
            for event in self.events
            if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")
            or (event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"))
        ]

    def requests(self):
        """Addresses that the page asked for."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]


@contextlib.contextmanager
def start_browser(folder: Path):
    """Starts a browser and yields its one page; BrowserMissing where there is none."""
    if importlib.util.find_spec("PySide6") is None:
        raise BrowserMissing("no browser: install the dev extra, whose PySide6_Addons brings one")
    process, address = _launch(folder)
    loop = asyncio.new_event_loop()
    try:
        session, wire = loop.run_until_complete(_connect(address))
        try:
            yield Page(loop, wire)
        finally:
            loop.run_until_complete(wire.close())
            loop.run_until_complete(session.close())
    finally:
        loop.close()
        process.terminate()
        process.wait(timeout=PATIENCE_S)


def _launch(folder):
    """Returns the process and the host and port that its protocol listens on."""
    environment = os.environ | {
        "QT_QPA_PLATFORM": "offscreen",
        "QTWEBENGINE_REMOTE_DEBUGGING": f"127.0.0.1:{_find_port()}",
        "QTWEBENGINE_CHROMIUM_FLAGS": "--disable-gpu --disable-dev-shm-usage --disable-background-networking",
        "QTWEBENGINE_DISABLE_SANDBOX": "1",  # it needs rights that containers withhold; the pages are our own
        "HOME": str(folder),
    }
    said = folder / "browser.txt"
    with said.open("wb") as output:
        command = [sys.executable, str(Path(__file__).with_name("browser_window.py"))]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    event = asyncio.run(_listen(process, said))
    if event is None:
        process.kill()
        process.wait()
        raise BrowserMissing(f"no browser: it does not run here: {said.read_text(errors='replace')[-500:].strip()}")
    return process, event


def _find_port():
    """A free port of this machine; Qt takes no 0 for "any"."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


async def _listen(process, said):
    """The address, as soon as the browser has said it; None if it ended or never said it."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while process.poll() is None:
                if found := re.search(r"DevTools listening on ws://([^/]+)/", said.read_text(errors="replace")):
                    return found.group(1)
                await asyncio.sleep(0.02)
    return None


async def _connect(address):
    session = aiohttp.ClientSession()
    async with asyncio.timeout(PATIENCE_S):
        while True:  # the protocol listens a moment before the page is there
            async with session.get(f"http://{address}/json") as answer:
                pages = [page for page in await answer.json(content_type=None) if page["type"] == "page"]
            if pages:
                break
            await asyncio.sleep(0.02)
    return session, await session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0)
