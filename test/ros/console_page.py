"""The console as a process of its own, and its page in a real browser without a window."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from machine_speed import limit
from needs import missing
from robot import REPOSITORY, Client, wait_for

try:
    from playwright.sync_api import Browser, sync_playwright
except ImportError:
    missing("chromium", "the page is tested in a browser: pip install -r requirements/test.txt, apt install chromium")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = [
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 800}
PIXELS = "canvas => canvas.toDataURL('image/png')"
PREFIX = "console: "


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's, driven by Playwright; the test is skipped, with the reason, where there is none."""
    if not CHROMIUM:
        missing("chromium", "there is no chromium: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=1000 * limit(30))
        yield browser
        browser.close()


class ConsoleProcess:
    """``console`` for the node at ``/NAMESPACE/lisa``. parameters: of the console."""

    _numbers = itertools.count(1)

    def __init__(self, folder: Path, namespace: str, remap: dict[str, str] | None = None, **parameters: Any) -> None:
        self.log = folder / f"console{next(self._numbers)}.log"
        settings = {"node": f"{namespace}/lisa", "port": 0, **parameters}
        command = [sys.executable, "-m", "lisa_console.node", "--ros-args", "-r", f"__ns:={namespace}"]
        for old, new in (remap or {}).items():
            command += ["-r", f"{old}:={new}"]
        for name, value in settings.items():
            command += ["-p", f"{name}:={value}"]
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONFAULTHANDLER": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)

    @property
    def url(self) -> str:
        """The address that it printed."""

        def printed() -> str:
            assert self.process.poll() is None, self.said()
            lines = self.said().splitlines()
            return next((line.removeprefix(PREFIX) for line in lines if line.startswith(f"{PREFIX}http")), "")

        return wait_for(printed, "address of the console")

    @property
    def port(self) -> int:
        return int(self.url.split("#")[0].rstrip("/").rsplit(":", 1)[1])

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(limit(10))
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()


class Tab:
    """One tab of the browser with the console's page.

    Every wait also runs the client's camera, so pictures keep coming.

    Attributes:
        page: Playwright's.
        requests: Addresses of everything that the page asked for.
        complaints: Errors of the browser's console and of scripts.
    """

    def __init__(self, browser: Browser, client: Client, url: str, **context: Any) -> None:
        self.client, self.url = client, url
        self.context = browser.new_context(**{"viewport": DESKTOP, **context})
        self.context.set_default_timeout(1000 * limit(10))
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _hear(self, message: Any) -> None:
        # A console that was stopped is tried again: the browser reports each try.
        if message.type == "error" and "ERR_CONNECTION_REFUSED" not in message.text:
            self.complaints.append(message.text)

    def open(self) -> Tab:
        self.page.goto(self.url)
        return self

    def close(self) -> None:
        """Nothing was asked for elsewhere, and no script failed."""
        self.context.close()
        origin = self.url.split("#")[0].rstrip("/")
        own = (origin, origin.replace("http", "ws", 1), "blob:")
        assert not [request for request in self.requests if not request.startswith(own)]
        assert not self.complaints, self.complaints

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        """The first true value; fails with ``what`` and the text of the page."""
        try:
            return self.client.wait(condition, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the page says: {self.page.inner_text('body')!r}") from None

    def text(self, selector: str) -> str:
        return self.page.eval_on_selector(selector, "element => element.textContent")

    def shows(self, selector: str, words: str) -> str:
        """Waits until the text of an element has these words."""
        return self.wait(lambda: (text := self.text(selector)) and words in text and text, f"{words!r} in {selector}")

    def hidden(self, selector: str) -> bool:
        return self.page.is_hidden(selector)

    def ready(self) -> Tab:
        """Waits for a node that is ready and a live picture."""
        self.shows("#state-text", "READY")
        self.shows("#caption", "live")
        return self

    def type(self, command: str) -> None:
        """Types a command and sends it, while the camera runs: work on the page may have held it up."""
        if self.client.view is not None:
            self.client.show(self.client.view)
        self.page.fill("#command", command)
        self.page.press("#command", "Enter")

    def key(self, key: str) -> None:
        """Presses a key outside of the line for commands."""
        self.page.keyboard.press("Escape")
        self.page.keyboard.press(key)

    def ask(self, command: str) -> str:
        """Sends a command; returns its line of state once the answer is final."""
        before = self.entries()
        self.type(command)
        self.wait(lambda: self.entries() > before and self.hidden("#stop"), f"answer to {command[:40]!r}")
        return self.text("#stage")

    def entries(self) -> int:
        """Number of commands in the history."""
        return self.page.locator("#history button").count()

    def chips(self) -> list[str]:
        return self.page.locator("#chips button").all_inner_texts()

    def canvas(self) -> np.ndarray:
        """(H, W, 3) what the person sees on the canvas, RGB."""
        return self.decode(self.page.eval_on_selector("#canvas", PIXELS))

    @staticmethod
    def decode(data_url: str) -> np.ndarray:
        """(H, W, 3) RGB of a PNG as data URL."""
        encoded = np.frombuffer(base64.b64decode(data_url.partition(",")[2]), np.uint8)
        return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Place of the page where a pixel of the camera's picture is drawn."""
        return tuple(
            self.page.eval_on_selector(
                "#canvas",
                """(canvas, [x, y]) => {
                    const box = canvas.getBoundingClientRect();
                    const scale = Math.min(box.width / canvas.width, box.height / canvas.height);
                    return [box.left + (box.width - scale * canvas.width) / 2 + scale * x,
                            box.top + (box.height - scale * canvas.height) / 2 + scale * y];
                }""",
                [x, y],
            )
        )

    def sees(self, truth: np.ndarray) -> bool:
        """Whether the canvas shows a scene whose bright pixels are ``truth``."""
        pixels = self.canvas()
        return pixels.shape[:2] == truth.shape and pixels[truth].min() > 200 and pixels[~truth].mean() < 60


def coloured(pixels: np.ndarray) -> np.ndarray:
    """(H, W) bool: where a grey scene (H, W, 3) has a mask drawn over it."""
    return np.ptp(pixels.astype(np.int16), axis=2) > 40


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))
