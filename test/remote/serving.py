"""For tests: ``lisa serve`` as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from machine_speed import Deadline

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "a-secret-of-tests"
LIMIT_S = 30.0


def free_port() -> int:
    """A port that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, what: str, limit_s: float = LIMIT_S):
    """The first true value of ``condition``; fails with ``what`` after the limit, which grows on a slow machine."""
    end = Deadline(limit_s)
    while not (value := condition()):
        assert not end.passed(), f"no {what} within {end.limit_s:g} s"
        time.sleep(0.01)
    return value


class Server:
    """A server on a port that stays the same when it is started again.

    Args:
        folder: For its log.
        model: As ``lisa serve --model``.
        arguments: Further ones.
        token: Of the server; empty: none.
    """

    start_s = LIMIT_S
    stop_s = 10.0

    def __init__(self, folder: Path, model: str = "standin:load", *arguments: str, token: str = "") -> None:
        self.log = folder / "serve.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = token
        self.start(model, *arguments)

    def start(self, model: str = "standin:load", *arguments: str) -> None:
        folders = [REPOSITORY, REPOSITORY / "test", REPOSITORY / "test/remote", REPOSITORY / "examples"]
        paths = [*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        environment.pop("LISA_TOKEN", None)
        if self.token:
            environment["LISA_TOKEN"] = self.token
        command = [
            sys.executable,
            "-m",
            "lisa_ros.cli",
            "serve",
            "--port",
            str(self.port),
            "--model",
            model,
            *arguments,
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        wait_for(self.healthy, f"server: {self.said()}", self.start_s)

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.said()
        return self.get("/health").status_code == 200

    def get(self, path: str) -> httpx.Response:
        """The response, or one of 599 where nobody listens."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            return httpx.get(self.url + path, headers=headers, trust_env=False, timeout=60)
        except httpx.HTTPError:
            return httpx.Response(599)

    def metric(self, name: str) -> float:
        """A figure of /metrics; 0 where it is not there yet."""
        lines = [line.rpartition(" ") for line in self.get("/metrics").text.splitlines()]
        return float(next((value for found, _, value in lines if found == name), 0.0))

    def count(self, outcome: str) -> int:
        """Commands that ended with this outcome."""
        return int(self.metric(f'lisa_commands_total{{outcome="{outcome}"}}'))

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """By Ctrl-C. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(Deadline(self.stop_s).limit_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()
