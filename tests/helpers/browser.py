"""A real browser for tests: headless Chromium without a network, driven through chromedriver by the
W3C WebDriver protocol over plain HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
CHROMEDRIVER = shutil.which("chromedriver")

KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Shift": "\ue008", "Home": "\ue011"}
KEYS |= {"Left": "\ue012", "Up": "\ue013", "Right": "\ue014", "Down": "\ue015"}

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --force-color-profile=srgb"
).split() + ["--host-resolver-rules=MAP * ~NOTFOUND"]

MISSING = (
    "chromium and chromedriver are not both on the PATH: apt-get install chromium chromium-driver"
)
in_browser = pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason=MISSING)
"""Marks tests that need a browser: they are skipped, with the remedy, where there is none."""

HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
    ' content="width=device-width"><title>page</title></head>'
)
IN_JUPYTER = """<div id="cell"></div><template id="source">%s</template><script>
const before = Object.getOwnPropertyNames(window).length;
document.getElementById("cell").innerHTML = document.getElementById("source").innerHTML;
for (const script of document.querySelectorAll("#cell script")) {
  const copy = document.createElement("script");
  copy.textContent = script.textContent;
  document.head.append(copy);
  copy.remove();
}
document.body.dataset.globals = Object.getOwnPropertyNames(window).length - before;
</script>"""
"""A page that shows a fragment, %s, as Jupyter does: set as HTML, which runs nothing, and its
scripts run from elsewhere."""

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The protocol's name for a reference to an element."""


class Browser:
    """One tab. Clicks and keys are the browser's own input events, not calls of the page's
    functions."""

    def __init__(self, root: str, folder: Path) -> None:
        self._root = root
        options = {"binary": CHROMIUM, "args": [*FLAGS, f"--user-data-dir={folder}"]}
        wanted = {
            "alwaysMatch": {
                "goog:chromeOptions": options,
                "goog:loggingPrefs": {"browser": "ALL"},
                "pageLoadStrategy": "none",
            }
        }
        self._session = (
            f"/session/{self._call('POST', '/session', {'capabilities': wanted})['sessionId']}"
        )
        # The driver's own command: Chrome's, sent through the driver, is without effect in some
        # versions.
        self.post(
            "/chromium/network_conditions",
            network_conditions={
                "offline": True,
                "latency": 0,
                "download_throughput": 0,
                "upload_throughput": 0,
            },
        )

    def _call(self, method: str, path: str, body: dict | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._root + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                request, timeout=60
            ) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(
                f"{method} {path}: {json.load(error)['value']['message'].splitlines()[0]}"
            ) from None

    def post(self, path: str, **body: Any) -> Any:
        return self._call("POST", self._session + path, body)

    def cdp(self, command: str, **parameters: Any) -> Any:
        """A command of Chrome's own protocol, for what WebDriver cannot set."""
        return self.post("/goog/cdp/execute", cmd=command, params=parameters)

    def open(self, address: str) -> None:
        """Loads a page, and waits until its scripts have run and its images are there.

        By its own look: on a machine that is busy, chromedriver's own waiting takes a page for
        loaded that has not begun to, and the next one then never loads.
        """
        # an address that differs in its hash alone would not load the page anew
        for wanted in ("about:blank", address):
            self.post("/url", url=wanted)
            for _ in range(3000):
                # the page that is left cannot answer any more
                with contextlib.suppress(AssertionError):
                    if self.js(
                        "return document.readyState === 'complete' &&"
                        " location.href.startsWith(arguments[0])",
                        wanted.partition("#")[0],
                    ):
                        break
                time.sleep(0.01)
            else:
                raise AssertionError(f"{wanted} is not there after half a minute")

    def js(self, script: str, *arguments: Any) -> Any:
        return self.post("/execute/sync", script=script, args=list(arguments))

    def find(self, selector: str) -> list[dict]:
        return self.post("/elements", using="css selector", value=selector)

    def click(self, elements: Sequence[dict]) -> None:
        """Real mouse clicks in the middle of the elements, one after the other; they must be on the
        screen."""
        moves: list[dict] = []
        for element in elements:
            moves += [
                {
                    "type": "pointerMove",
                    "duration": 0,
                    "origin": {ELEMENT: element[ELEMENT]},
                    "x": 0,
                    "y": 0,
                }
            ]
            moves += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        if moves:
            self.post(
                "/actions",
                actions=[
                    {
                        "type": "pointer",
                        "id": "mouse",
                        "parameters": {"pointerType": "mouse"},
                        "actions": moves,
                    }
                ],
            )

    def press(self, *keys: str) -> None:
        """Key presses, one after the other; names as in `KEYS`, "Shift+Tab" too."""
        strokes: list[dict] = []
        for key in keys:
            held = [KEYS[part] for part in key.split("+")]
            strokes += [{"type": "keyDown", "value": k} for k in held] + [
                {"type": "keyUp", "value": k} for k in reversed(held)
            ]
        self.post("/actions", actions=[{"type": "key", "id": "keyboard", "actions": strokes}])

    def screen(self, width: int, height: int, scheme: str = "light") -> None:
        """The screen's size in CSS pixels, and whether the reader's system prefers "light" or
        "dark"."""
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.cdp(
            "Emulation.setEmulatedMedia",
            media="screen",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def log(self) -> list[str]:
        """What the console holds since the last call: the page's errors and the requests that
        failed."""
        return [entry["message"] for entry in self.post("/se/log", type="browser")]

    def errors(self) -> list[str]:
        """Of the same, the errors alone."""
        return [
            entry["message"]
            for entry in self.post("/se/log", type="browser")
            if entry["level"] == "SEVERE"
        ]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", self._session + "/screenshot")))

    def quit(self) -> None:
        self._call("DELETE", self._session)


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser whose profile lies in ``folder``; it and its driver are gone afterwards."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [CHROMEDRIVER, f"--port={port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        found = Browser(f"http://127.0.0.1:{port}", folder)
        try:
            yield found
        finally:
            found.quit()
    finally:
        # The browser too, where it did not end by itself: it is in the driver's process group.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGTERM)
        driver.wait(20)


@pytest.fixture(scope="module")
def tab(tmp_path_factory) -> Iterator[Browser]:
    """The browser of a test module."""
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def write(folder: Path, body: str, attributes: str = "") -> str:
    """A page with ``body`` under a heading, its root element with ``attributes``: the page's
    address."""
    path = folder / "page.html"
    path.write_text(
        f"{HEAD.replace('<html', '<html ' + attributes)}<body><h1"
        f" id='section'>Heading</h1>{body}</body></html>",
        encoding="utf-8",
    )
    return path.as_uri()


def tab_to(tab: Browser, read: str, wanted: str, key: str = "Tab") -> None:
    """Presses Tab until the control that the script ``read`` calls ``wanted`` has the focus; it
    must show that it has."""
    for _ in range(40):
        if tab.js(read)["focus"] == wanted:
            break
        tab.press(key)
    outline = tab.js(
        "const s = getComputedStyle(document.activeElement); return [s.outlineStyle,"
        " parseFloat(s.outlineWidth)]"
    )
    assert tab.js(read)["focus"] == wanted and outline[0] == "solid" and outline[1] >= 2
