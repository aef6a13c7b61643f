"""Between the robot's side and the pages: who is told what. Lives on the web server's thread."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_console import protocol
from lisa_console.events import Chosen, Event, Live, Mask, Options, Picture, Problem, Progress, Result, State
from lisa_console.history import Entry, History
from lisa_console.protocol import Kind, write_binary, write_event
from lisa_console.viewers import Viewer
from lisa_ros.data.saved_examples import save_example

MOST_VIEWERS = 8
PNG = b"\x89PNG\r\n\x1a\n"  # how a file begins; width and height stand at byte 16


class Robot(Protocol):
    """The robot's side. Every method may be called on any thread and returns at once; events say what became of it."""

    cameras: tuple[str, ...]

    def watch(self, cameras: frozenset[str]) -> None:
        """Take pictures of these cameras, of no others."""

    def want(self, cameras: frozenset[str]) -> None:
        """Of these cameras a page waits for a picture."""

    def hold(self, camera: str, stamp_ns: int) -> None:
        """Keep a picture: a command about it follows."""

    def ask(self, command: protocol.Command) -> None:
        """Send a command."""

    def cancel(self, request_id: str) -> None:
        """End a command."""

    def choose(self, request_id: str, label: int) -> None:
        """Publish a mask as the chosen one."""

    def clear(self) -> None:
        """Stop following."""

    def clear_session(self) -> None:
        """Forget conversations."""

    def set_option(self, name: str, value: bool | int | float | str) -> None:
        """Change a live parameter."""


class Hub:
    """Viewers, history and the latest state.

    Args:
        robot: Carries out what pages ask for.
        examples: Folder where corrections are kept; None: they are not.
        history_dir: Folder where answers are written; None: they are not.
    """

    def __init__(self, robot: Robot, examples: Path | None = None, history_dir: Path | None = None) -> None:
        self._robot = robot
        self._examples = examples
        self.history = History(history_dir)
        self.viewers: list[Viewer] = []
        self._watched: frozenset[str] = frozenset()
        self._state: dict[str, Any] = {}
        self._options: list[dict[str, Any]] = []

    # --- pages

    def enter(self, viewer: Viewer) -> None:
        """A page came: it is told what there is."""
        self.viewers.append(viewer)
        cameras = list(self._robot.cameras)
        viewer.camera = cameras[0]
        viewer.say(write_event("hello", cameras=cameras, save_examples=self._examples is not None))
        viewer.say(write_event("state", **self._state))
        viewer.say(write_event("options", options=self._options))
        viewer.say(write_event("history", entries=[entry.fields() for entry in self.history]))
        for entry in self.history:
            if entry.picture is not None:
                viewer.say(thumbnail(entry))
            if entry.result is None:
                self._show(entry, viewer)

    def leave(self, viewer: Viewer) -> None:
        """A page went."""
        self.viewers.remove(viewer)
        self.look()

    def look(self) -> None:
        """Tells the robot which cameras are watched, and which pictures are waited for."""
        watched = frozenset(viewer.camera for viewer in self.viewers if viewer.visible)
        if watched != self._watched:  # it wakes the executor, and this runs with every picture
            self._watched = watched
            self._robot.watch(watched)
        self._robot.want(frozenset(viewer.camera for viewer in self.viewers if viewer.wants_frame))

    def carry_out(self, request: protocol.Request, viewer: Viewer) -> None:
        """What a page asks for."""
        robot = self._robot
        match request:
            case protocol.View(camera, visible):
                viewer.camera = camera if camera in robot.cameras else robot.cameras[0]
                viewer.visible = visible
                self.look()
            case protocol.Drawn():
                viewer.take_drawn()
                self.look()
            case protocol.Hold(stamp):
                robot.hold(viewer.camera, stamp)
            case protocol.Command():
                robot.ask(request)
            case protocol.Cancel(request_id):
                robot.cancel(request_id)
            case protocol.Choose(request_id, label):
                robot.choose(request_id, label)
            case protocol.Clear():
                robot.clear()
            case protocol.ClearSession():
                robot.clear_session()
            case protocol.SetOption(name, value):
                robot.set_option(name, value)
            case protocol.Show(request_id):
                self._show_again(request_id, viewer)
            case protocol.Correct():
                self._correct(request, viewer)

    def _show_again(self, request_id: str, viewer: Viewer) -> None:
        entry = self.history.find(request_id)
        if entry is None:
            viewer.say(write_event("problem", id=request_id, text="this answer is no longer in the history"))
        else:
            self._show(entry, viewer)

    def _show(self, entry: Entry, viewer: Viewer) -> None:
        if entry.picture is not None:
            viewer.say(picture(entry.picture))
        for mask in entry.masks.values():
            viewer.say(mask_frame(mask))

    def _correct(self, request: protocol.Correct, viewer: Viewer) -> None:
        """Keeps a correction, where that is wanted, and tells every page."""
        entry = self.history.find(request.request_id)
        if entry is None or entry.result is None:
            viewer.say(
                write_event("problem", id=request.request_id, text="only an answer in the history can be corrected")
            )
            return
        saved = False
        if self._examples is not None and (request.right or request.mask is not None):
            try:
                png, mask = labelled(entry, request)
                save_example(self._examples, entry.file_name, png, [entry.result["command"]], mask)
                saved = True
            except (OSError, ValueError) as error:
                viewer.say(write_event("problem", id=request.request_id, text=f"the example is not saved: {error}"))
                return
        entry.verdict = "right" if request.right else "wrong"
        self._say(write_event("verdict", id=request.request_id, verdict=entry.verdict, saved=saved))

    # --- the robot's side

    def take(self, event: Event) -> None:
        """Something happened: whom it concerns is told."""
        match event:
            case Live(camera, frame):
                for viewer in self.viewers:
                    if viewer.camera == camera and viewer.wants_frame:
                        viewer.show(frame)
                self.look()
            case State(fields):
                self._state = fields
                self._say(write_event("state", **fields))
            case Options(options):
                self._options = list(options)
                self._say(write_event("options", options=self._options))
            case Picture():
                self.history.open(event.request_id).picture = event
                self._say(picture(event))
            case Progress(request_id, fields):
                entry = self.history.open(request_id)
                if entry.result is None:
                    entry.progress = fields
                    self._say(write_event("progress", id=request_id, **fields))
            case Mask():
                self.history.open(event.request_id).masks[event.header["label"]] = event
                self._say(mask_frame(event))
            case Result():
                self._finish(event)
            case Chosen(request_id, label):
                if (entry_or_none := self.history.find(request_id)) is not None:
                    entry_or_none.chosen = label
                self._say(write_event("chosen", id=request_id, label=label))
            case Problem(request_id, text):
                self._say(write_event("problem", id=request_id, text=text))

    def _finish(self, event: Result) -> None:
        """Masks first: the page that shows the result has them already."""
        entry = self.history.open(event.request_id)
        for mask in event.masks:
            if entry.masks.get(mask.header["label"]) is None:
                self._say(mask_frame(mask))
        entry.masks = {mask.header["label"]: mask for mask in event.masks}
        entry.result = event.fields
        self._say(write_event("result", id=event.request_id, **event.fields))
        if entry.picture is not None:
            self._say(thumbnail(entry))
        self.history.finish(entry)

    def _say(self, frame: str | bytes) -> None:
        for viewer in list(self.viewers):
            viewer.say(frame)


def picture(event: Picture) -> bytes:
    """Binary frame."""
    width, height = event.size
    header = {"id": event.request_id, "width": width, "height": height}
    return write_binary(Kind.PICTURE, event.stamp_ns, header, [event.jpeg])


def mask_frame(event: Mask) -> bytes:
    """Binary frame."""
    return write_binary(Kind.MASK, event.stamp_ns, {"id": event.request_id, **event.header}, [event.png])


def thumbnail(entry: Entry) -> bytes:
    """Binary frame."""
    assert entry.picture is not None
    return write_binary(Kind.THUMBNAIL, entry.picture.stamp_ns, {"id": entry.request_id}, [entry.picture.thumbnail])


def labelled(entry: Entry, request: protocol.Correct) -> tuple[bytes, NDArray[np.bool_]]:
    """An answer's picture (PNG) with the mask (H, W) that it should have. Raises ValueError where there is none.

    The mask is the person's; else the chosen one of the answer's masks, else all of them.
    """
    kept = entry.picture
    if kept is None or kept.png is None:
        raise ValueError("its picture was not kept")
    width, height = kept.size
    if request.mask is not None:
        # The size stands in front: a small file can be a picture of gigabytes.
        is_sized = request.mask.startswith(PNG) and request.mask[16:24] == struct.pack(">II", width, height)
        pixels = np.frombuffer(request.mask, np.uint8)
        drawn = cv2.imdecode(pixels, cv2.IMREAD_GRAYSCALE) if is_sized else None
        if drawn is None or drawn.shape != (height, width):
            raise ValueError(f"the drawn mask is no PNG of {width} x {height} pixels")
        return kept.png, drawn > 127
    mask = np.zeros((height, width), np.bool_)
    for label, one in entry.masks.items():
        if entry.chosen in (0, label):
            x, y, w, h = one.header["roi"]
            crop = np.asarray(cv2.imdecode(np.frombuffer(one.png, np.uint8), cv2.IMREAD_GRAYSCALE))
            mask[y : y + h, x : x + w] |= crop > 127
    return kept.png, mask
