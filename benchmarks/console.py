#!/usr/bin/env python3
"""The web console: pictures and masks in a real browser, and what they cost.

    python benchmarks/console.py --seconds 20
    python benchmarks/console.py --soak 300

The camera is a process (640x480, 30 Hz, a textured picture), the node has a stand-in for the model, the browser is a
headless Chromium. Latency: a picture is on the canvas, minus its stamp. Needs chromium, playwright and aiohttp.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node_under_test
import psutil
from children import Child

RATE_HZ = 30.0
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
]
DRAWN = """window.drawn = []; window.masks = {};
    const now = () => performance.timeOrigin + performance.now();
    window.addEventListener("drawn", (event) => window.drawn.push([now(), event.detail]));
    window.addEventListener("mask", (event) => { window.masks[event.detail.id] ??= now(); });"""
VIEWERS = 8  # as many as the console lets in
COMMANDS = 10


def camera() -> None:
    """What the camera's process does, until its standard input ends."""
    import cv2
    import numpy as np
    import rclpy
    from children import messages
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image
    from std_msgs.msg import Header

    from lisa_ros.ros.messages import image_message

    rclpy.init()
    node = rclpy.create_node("camera")
    publisher = node.create_publisher(Image, "/image", qos_profile_sensor_data)
    photo = cv2.imread(str(node_under_test.REPOSITORY / "demo" / "scene.jpg"))
    pixels = cv2.cvtColor(cv2.resize(photo, (640, 480)), cv2.COLOR_BGR2RGB)
    views = [image_message(Header(), np.roll(pixels, 4 * shift, axis=1), "rgb8") for shift in range(30)]
    ended = threading.Event()
    threading.Thread(target=lambda: (list(messages()), ended.set()), daemon=True).start()
    due, number = time.monotonic(), 0
    while not ended.is_set():
        view = views[number % len(views)]
        view.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(view)
        number += 1
        due = max(due + 1 / RATE_HZ, time.monotonic() - 0.1)
        time.sleep(max(due - time.monotonic(), 0))


@contextlib.contextmanager
def console(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """The running console, and its address."""
    log = folder / "console.log"
    command = [sys.executable, "-m", "lisa_console.node", "--ros-args", "-p", "port:=0"]
    paths = [str(node_under_test.REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            preexec_fn=node_under_test.stand_apart,
        )
    try:
        end = time.monotonic() + 60
        while "console: http" not in log.read_text():
            if process.poll() is not None or time.monotonic() > end:
                sys.exit(f"the console did not start: {log.read_text()}")
            time.sleep(0.05)
        line = next(line for line in log.read_text().splitlines() if line.startswith("console: http"))
        yield psutil.Process(process.pid), line.removeprefix("console: ")
    finally:
        process.terminate()
        process.wait(10)


class Feedback:
    """When the feedback with the first mask of each goal came to a listener on this machine."""

    def __init__(self) -> None:
        import rclpy
        from rclpy.executors import SingleThreadedExecutor

        from lisa_ros.action import Segment

        rclpy.init()
        self.node = rclpy.create_node("feedback")
        self.came: dict[str, float] = {}  # id -> Unix time [ms]
        self.node.create_subscription(Segment.Impl.FeedbackMessage, "/lisa/segment/_action/feedback", self._take, 100)
        executor = SingleThreadedExecutor()
        executor.add_node(self.node)
        threading.Thread(target=executor.spin, daemon=True).start()

    def _take(self, message: Any) -> None:
        if message.feedback.masks:
            self.came.setdefault(bytes(message.goal_id.uuid).hex(), 1000 * time.time())


class Readers:
    """Pages that read and acknowledge every picture at once, without a browser; and one that never reads."""

    def __init__(self, url: str, count: int) -> None:
        self._host = url.split("//")[1].rstrip("/")
        self._ended = threading.Event()
        self.pictures = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read_all(count)))
        self._stalled = self._stall()
        self._thread.start()

    def _stall(self) -> socket.socket:
        """A page whose socket is never read."""
        host, _, port = self._host.partition(":")
        stalled = socket.create_connection((host, int(port)))
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lines = ["GET /ws HTTP/1.1", f"Host: {self._host}", f"Origin: http://{self._host}", "Upgrade: websocket"]
        lines += ["Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="]
        frames = b""
        for message in ({"type": "hello", "token": ""}, {"type": "view", "camera": "", "visible": True}):
            text = json.dumps(message).encode()
            frames += bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text
        stalled.sendall("\r\n".join([*lines, "", ""]).encode() + frames)
        return stalled

    async def _read_all(self, count: int) -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(self._read(session) for _ in range(count)))

    async def _read(self, session: Any) -> None:
        origin = f"http://{self._host}"
        async with session.ws_connect(f"{origin}/ws", headers={"Origin": origin}, max_msg_size=0) as page:
            await page.send_json({"type": "hello", "token": ""})
            await page.send_json({"type": "view", "camera": "", "visible": True})
            while not self._ended.is_set():
                message = await page.receive()
                if isinstance(message.data, bytes) and message.data[0] == 1:
                    self.pictures += 1
                    await page.send_json({"type": "drawn"})

    def end(self) -> None:
        self._ended.set()
        self._thread.join()
        self._stalled.close()


def cpu_s(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def wait(page: Any, condition: str) -> None:
    """Until a condition in JavaScript holds. Playwright's own way needs eval, which the page's policy forbids."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        if time.monotonic() > end:
            sys.exit(f"not within 60 s: {condition}; the page says: {page.inner_text('body')}")
        page.wait_for_timeout(50)


def watch(page: Any, process: psutil.Process, seconds: float) -> dict[str, float]:
    """Pictures on the canvas for a while: rate, latency, and the console's CPU."""
    page.evaluate("window.drawn = []")
    begun, used = time.monotonic(), cpu_s(process)
    page.wait_for_timeout(1000 * seconds)
    drawn = page.evaluate("window.drawn")
    lasted, used = time.monotonic() - begun, cpu_s(process) - used
    if not drawn:
        sys.exit("no picture came to the page")
    late = sorted(at - int(stamp) / 1e6 for at, stamp in drawn)
    return {
        "fps": round(len(drawn) / lasted, 1),
        "p50_ms": round(statistics.median(late), 1),
        "p95_ms": round(late[int(0.95 * (len(late) - 1))], 1),
        "cores": round(used / lasted, 3),
    }


def mask_delays(page: Any, feedback: Feedback) -> list[float]:
    """[ms] from a mask in the action's feedback to the mask on the page, for some commands."""
    for number in range(COMMANDS):
        page.fill("#command", f"the box {number}")
        page.press("#command", "Enter")
        wait(page, f"Object.keys(window.masks).length > {number}")
    masks = page.evaluate("window.masks")
    return [round(at - feedback.came[name], 1) for name, at in masks.items() if name in feedback.came]


def load(browser: Any, url: str) -> dict[str, float]:
    """First paint of a fresh page, and its size."""
    context = browser.new_context()
    page = context.new_page()
    sizes: list[int] = []
    page.on("response", lambda response: sizes.append(len(response.body())))
    page.goto(url, wait_until="networkidle")
    page.wait_for_timeout(500)
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    context.close()
    return {"first_paint_ms": round(paint), "page_kb": round(sum(sizes) / 1000, 1)}


def soak(page: Any, process: psutil.Process, seconds: float) -> list[dict[str, float]]:
    """A row for every fifth of the time: memory, rate, latency."""
    rows = []
    for _ in range(5):
        row = watch(page, process, seconds / 5)
        rows.append({**row, "rss_mb": round(process.memory_info().rss / 1e6, 1)})
    return rows


def measure(seconds: float, soak_s: float, folder: Path) -> dict[str, Any]:
    """Everything that the arguments ask for."""
    from playwright.sync_api import sync_playwright

    figures: dict[str, Any] = {"machine": node_under_test.machine()}
    with node_under_test.lisa_node(), console(folder) as (process, url), sync_playwright() as playwright:
        feedback = Feedback()
        feed = Child(Path(__file__).name, "--camera", on_line=lambda line: None)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        time.sleep(3)
        used, begun = cpu_s(process), time.monotonic()
        time.sleep(seconds / 2)
        figures["nobody_cores"] = round((cpu_s(process) - used) / (time.monotonic() - begun), 4)
        figures |= load(browser, url)
        page = browser.new_page()
        page.add_init_script(DRAWN)
        page.goto(url)
        wait(page, "window.drawn.length > 30")
        wait(page, "document.getElementById('state-text').textContent.includes('READY')")
        if soak_s:
            figures["soak"] = soak(page, process, soak_s)
        else:
            figures["one"] = watch(page, process, seconds)
            figures["mask_ms"] = mask_delays(page, feedback)
            page.reload()  # without an answer that is shown
            wait(page, "window.drawn.length > 30")
            readers = Readers(url, VIEWERS - 2)
            figures["eight"] = watch(page, process, seconds)
            readers.end()
            figures["again"] = watch(page, process, seconds)
        browser.close()
        feed.end()
    figures["load_at_end"] = round(os.getloadavg()[0], 1)
    return figures


def table(figures: dict[str, Any]) -> str:
    """For docs/benchmarks.md."""
    lines = ["| | frames/s | p50 ms | p95 ms | console, cores | |", "|---|---|---|---|---|---|"]
    rows = [(name, figures[key]) for key, name in NAMES.items() if key in figures]
    rows += [(f"soak, part {number}", row) for number, row in enumerate(figures.get("soak", ()), 1)]
    for name, row in rows:
        memory = f"{row['rss_mb']} MB" if "rss_mb" in row else ""
        lines.append(f"| {name} | {row['fps']} | {row['p50_ms']} | {row['p95_ms']} | {row['cores']} | {memory} |")
    lines += ["", f"nobody watches: {figures['nobody_cores']} cores"]
    lines += [f"page: {figures['page_kb']} kB, first paint after {figures['first_paint_ms']} ms"]
    if figures.get("mask_ms"):
        delays = figures["mask_ms"]
        middle = round(statistics.median(delays), 1)
        lines += [f"mask on the page after the feedback: median {middle} ms, most {max(delays)} ms"]
    return "\n".join(lines)


NAMES = {"one": "one page", "eight": "eight pages, one of them stalled", "again": "one page again"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement (20)")
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS", help="watch for so long instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--camera", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.camera:
        camera()
        return 0
    claimed = node_under_test.claim_domain()
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(claimed):
        figures = measure(arguments.seconds, arguments.soak, Path(folder))
    print(table(figures))
    print(json.dumps(figures))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
