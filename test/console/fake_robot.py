"""A robot's side that only notes what it is asked to do, for tests of the web server."""

from __future__ import annotations

from typing import Any

from lisa_console.protocol import Command


class FakeRobot:
    """calls: (name, arguments) in order."""

    def __init__(self, cameras: tuple[str, ...] = ("",)) -> None:
        self.cameras = cameras
        self.calls: list[tuple[Any, ...]] = []
        self.watched: frozenset[str] = frozenset()
        self.wanted: frozenset[str] = frozenset()

    def watch(self, cameras: frozenset[str]) -> None:
        self.watched = cameras

    def want(self, cameras: frozenset[str]) -> None:
        self.wanted = cameras

    def hold(self, camera: str, stamp_ns: int) -> None:
        self.calls.append(("hold", camera, stamp_ns))

    def ask(self, command: Command) -> None:
        self.calls.append(("ask", command))

    def cancel(self, request_id: str) -> None:
        self.calls.append(("cancel", request_id))

    def choose(self, request_id: str, label: int) -> None:
        self.calls.append(("choose", request_id, label))

    def clear(self) -> None:
        self.calls.append(("clear",))

    def clear_session(self) -> None:
        self.calls.append(("clear_session",))

    def set_option(self, name: str, value: bool | int | float | str) -> None:
        self.calls.append(("set", name, value))
