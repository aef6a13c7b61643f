"""A recording's frames annotated: the model is asked now and then, in between its masks follow the scene.

The frames from one answer to the next are a part. Each part's results are a file of their own that appears when it is
complete, so a run that was killed goes on behind the last of them; in the end the parts are merged with the recording.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.atomic import replacing
from lisa_ros.bag import messages
from lisa_ros.bag.recording import BagWriter, Frame, Message, Recording, merged, open_recording, write_recording
from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.errors import ConfigError, ImageError
from lisa_ros.perception.masks import Segmentation, labels_image
from lisa_ros.perception.overlay import draw_overlay
from lisa_ros.perception.tracking import FlowTracker, Tracked

if TYPE_CHECKING:
    from lisa_ros.lisa.segmenter import Segmenter

OVERLAYS = {"jpeg": "overlay/compressed", "raw": "overlay", "none": ""}
"""How the overlay is written -> its topic."""
DIGITS = 9


@dataclass(frozen=True)
class Wishes:
    """What a recording is to be annotated with.

    every_s: seconds of recording from one question to the next; 0 asks once. track: masks for the frames in between.
    overlay: one of OVERLAYS. name: of the topics, as the node's name is.
    """

    command: str
    explain: bool = False
    verbatim: bool = False
    every_s: float = 5.0
    track: bool = True
    overlay: str = "jpeg"
    name: str = "/lisa"

    def topics(self) -> dict[str, str]:
        """Topic -> type of everything that is written."""
        kinds = {
            "labels": messages.IMAGE,
            "result": messages.SEGMENTATION,
            "answer": messages.STRING,
            "tracked": messages.TRACKED,
            OVERLAYS[self.overlay]: messages.IMAGE if self.overlay == "raw" else messages.COMPRESSED,
        }
        return {f"{self.name}/{topic}": kind for topic, kind in kinds.items() if topic}


class Annotator:
    """Asks about a frame, follows through the next ones. Every result is a list of serialized messages."""

    def __init__(self, segmenter: Segmenter, wishes: Wishes, answered: Callable[[Frame, Segmentation], None]) -> None:
        self._segmenter = segmenter
        self._wishes = wishes
        self._answered = answered
        self._tracker = FlowTracker()
        self._request_id = ""

    def ask(self, frame: Frame) -> list[Message]:
        """Raises ImageError for a frame that cannot be used, and what Segmenter.segment raises."""
        header, rgb = frame.read()
        wishes = self._wishes
        result = self._segmenter.segment(
            self._segmenter.encode(rgb), wishes.command, explain=wishes.explain, verbatim=wishes.verbatim
        )
        crops = [
            crop_mask(mask, label, score)
            for label, (mask, score) in enumerate(zip(result.masks, result.scores.tolist(), strict=True), 1)
        ]
        self._answered(frame, result)
        self._request_id = f"frame-{frame.number}"
        if wishes.track:
            self._tracker.start(rgb, crops, frame.time_ns / 1e9)
        model = self._segmenter.name, self._segmenter.precision
        answer = messages.segmentation(header, self._request_id, wishes.command, result.answer, crops, *model)
        return [
            self._message("result", frame, answer),
            self._message("answer", frame, messages.string(result.answer)),
            *self._show(frame, header, rgb, messages.as_tracked(crops)),
        ]

    def follow(self, frame: Frame) -> list[Message]:
        """Raises ImageError for a frame that cannot be used."""
        if not self._wishes.track:
            return []
        header, rgb = frame.read()
        cv2.setRNGSeed(frame.number)  # the tracker's colour models draw lots: the same ones on every run
        return self._show(frame, header, rgb, self._tracker.update(rgb, frame.time_ns / 1e9))

    def _show(self, frame: Frame, header: Any, rgb: NDArray[np.uint8], targets: list[Tracked]) -> list[Message]:
        crops: list[MaskCrop] = [target.crop for target in targets if target.crop.area]
        tracked = messages.tracked_masks(header, self._request_id, self._wishes.command, targets)
        shown = [
            self._message("labels", frame, messages.image(header, labels_image(crops, rgb.shape[:2]), "mono8")),
            self._message("tracked", frame, tracked),
        ]
        if topic := OVERLAYS[self._wishes.overlay]:
            picture = draw_overlay(rgb, crops)
            raw = self._wishes.overlay == "raw"
            drawn = messages.image(header, picture, "rgb8") if raw else messages.jpeg(header, picture)
            shown.append(self._message(topic, frame, drawn))
        return shown

    def _message(self, topic: str, frame: Frame, message: Any) -> Message:
        kind = message.__msgtype__
        return f"{self._wishes.name}/{topic}", kind, frame.time_ns, messages.typestore().serialize_cdr(message, kind)


class Job:
    """Work on one output, kept in a folder beside it until the output is whole.

    description: what the work is; an unfinished one of another description is not gone on with.
    """

    def __init__(self, out: Path, wishes: Wishes, description: dict[str, Any]) -> None:
        self.folder = out.with_name(f".unfinished-{out.name}")
        self._out = out
        self._wishes = wishes
        self._description = description

    def take_up(self, restart: bool) -> int:
        """Find what an earlier run left. Returns the number of frames that are done."""
        said = self.folder / "job.json"
        text = json.dumps(self._description, indent=1)
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        if said.is_file() and said.read_text("utf-8") != text:
            raise ConfigError(
                f"{self.folder} has unfinished work of other options or another recording; run with those again to "
                "finish it, or with --restart to begin anew"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if not said.is_file():
            with replacing(said) as unfinished:
                unfinished.write_text(text, "utf-8")
        parts = self._parts()
        return int(parts[-1].stem.split("-")[1]) if parts else 0

    def annotate(
        self, frames: Iterable[Frame], annotator: Annotator, skipped: Callable[[Frame, ImageError], None]
    ) -> None:
        """Annotate ``frames``, the ones that are not done. skipped: told of every frame that cannot be used."""
        for part in split(frames, self._wishes.every_s):
            self._annotate_part(part, annotator, skipped)

    def finish(self, recording: Recording, originals: bool, passed: Callable[[Message], Message]) -> list[str]:
        """Write the output: the recording's own messages where ``originals``, and the results. Returns topics left out.

        passed: called with every message.
        """
        left_out: list[str] = []

        def fill(writer: BagWriter) -> None:
            if originals:
                left_out.extend(recording.define(writer))
            self._define(writer)
            for message in merged(recording.messages() if originals else [], self._results()):
                writer.write(passed(message))

        write_recording(self._out, self.folder, fill)
        shutil.rmtree(self.folder)
        return left_out

    @property
    def empty(self) -> bool:
        """Whether there is no result at all."""
        return next(self._results(), None) is None

    def _annotate_part(
        self, part: Iterable[Frame], annotator: Annotator, skipped: Callable[[Frame, ImageError], None]
    ) -> None:
        numbers: list[int] = []

        def fill(writer: BagWriter) -> None:
            self._define(writer)
            asked = False
            for frame in part:
                numbers.append(frame.number)
                try:
                    results = annotator.follow(frame) if asked else annotator.ask(frame)
                except ImageError as error:
                    skipped(frame, error)
                    continue
                asked = True
                for message in results:
                    writer.write(message)

        written = self.folder / "part.mcap"
        write_recording(written, self.folder, fill)
        written.replace(self.folder / f"{numbers[0]:0{DIGITS}}-{numbers[-1] + 1:0{DIGITS}}.mcap")

    def _define(self, writer: BagWriter) -> None:
        for topic, kind in self._wishes.topics().items():
            writer.define_own(topic, kind)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{'[0-9]' * DIGITS}-*.mcap"))

    def _results(self) -> Iterator[Message]:
        for part in self._parts():
            with open_recording(part) as results:
                yield from results.messages()


def split(frames: Iterable[Frame], every_s: float) -> Iterator[Iterator[Frame]]:
    """Frames in parts of ``every_s`` seconds, one after the other; 0 makes one of all."""
    begun: int | None = None

    def part(frame: Frame) -> int:
        nonlocal begun
        if begun is None or 0 < every_s * 1e9 <= frame.time_ns - begun:
            begun = frame.time_ns
        return begun

    return (group for _, group in itertools.groupby(frames, part))
