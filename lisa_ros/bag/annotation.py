"""Annotate the frames of a recording: ask the model every few seconds and track its masks in between.

The frames from one answer to the next are a part. The results of each part are written to a file of their own, which
appears when it is complete. A run that was killed continues after the last complete part. At the end, the parts are
merged with the recording.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.atomic import replacing
from lisa_ros.bag import messages
from lisa_ros.bag.recording import BagWriter, Frame, Message, Recording, merged, open_recording, write_recording
from lisa_ros.engine.api import Answer, Ask
from lisa_ros.engine.patience import patiently
from lisa_ros.engine.support import SupportedEngine, numbered_answer
from lisa_ros.errors import ConfigError, ImageError
from lisa_ros.perception.masks import labels_image
from lisa_ros.perception.overlay import draw_overlay
from lisa_ros.perception.tracking import FlowTracker, Tracked

OVERLAYS = {"jpeg": "overlay/compressed", "raw": "overlay", "none": ""}
"""How the overlay is written -> its topic."""
DIGITS = 9


@dataclass(frozen=True)
class AnnotationSettings:
    """What is asked, how often, and what is written.

    Args:
        command: What to find; may be empty where there are targets.
        targets: Names of things to find, each on its own.
        explain: Ask for the reason too.
        verbatim: Send the command character by character.
        every_s: Seconds of recording between two asks; 0 asks once.
        track: Write masks for the frames between two asks too.
        overlay: One of ``OVERLAYS``.
        name: Prefix of the topics, as the node's name is.
    """

    command: str
    targets: tuple[str, ...] = ()
    explain: bool = False
    verbatim: bool = False
    every_s: float = 5.0
    track: bool = True
    overlay: str = "jpeg"
    name: str = "/lisa"

    @property
    def ask(self) -> Ask:
        return Ask(self.command, explain=self.explain, verbatim=self.verbatim, targets=self.targets)

    @property
    def words(self) -> str:
        """The command for messages and people: the targets where there is no command."""
        return self.command or ", ".join(self.targets)

    def topics(self) -> dict[str, str]:
        """Topic -> message type of everything that is written."""
        kinds = {
            "labels": messages.IMAGE,
            "result": messages.SEGMENTATION,
            "answer": messages.STRING,
            "tracked": messages.TRACKED,
            OVERLAYS[self.overlay]: messages.IMAGE if self.overlay == "raw" else messages.COMPRESSED,
        }
        return {f"{self.name}/{topic}": kind for topic, kind in kinds.items() if topic}


class Annotator:
    """Asks about one frame and tracks the masks in the next ones. Each result is a list of serialized messages.

    Args:
        engine: Answers.
        settings: What to ask and to write.
        on_answer: Called with each frame that was asked about, and its answer.
    """

    def __init__(
        self, engine: SupportedEngine, settings: AnnotationSettings, on_answer: Callable[[Frame, Answer], None]
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._on_answer = on_answer
        self._tracker = FlowTracker()
        self._request_id = ""
        self._phrases: dict[int, str] = {}  # label -> phrase, of the last answer

    def ask(self, frame: Frame) -> list[Message]:
        """Answer the command for a frame, and start tracking.

        Returns:
            The messages of this frame.

        Raises:
            ImageError: The frame cannot be decoded.
            LisaError: What ``SupportedEngine.ask`` raises.
        """
        header, rgb = frame.read()
        encoded = self._engine.encode(rgb)
        answer = numbered_answer(patiently(lambda: self._engine.ask(encoded, self._settings.ask)))
        regions = answer.regions
        self._on_answer(frame, answer)
        self._request_id = f"frame-{frame.number}"
        self._phrases = {region.mask.label: region.phrase for region in regions}
        if self._settings.track:
            self._tracker.start(rgb, [region.mask for region in regions], frame.time_ns / 1e9)
        result = messages.segmentation(
            header,
            self._request_id,
            self._settings.words,
            self._settings.targets,
            answer,
            regions,
            self._engine.info,
        )
        return [
            self._message("result", frame, result),
            self._message("answer", frame, messages.string(answer.text)),
            *self._masks(frame, header, rgb, messages.as_tracked(regions)),
        ]

    def track(self, frame: Frame) -> list[Message]:
        """Track the masks into a frame.

        Returns:
            The messages of this frame; empty without tracking.

        Raises:
            ImageError: The frame cannot be decoded.
        """
        if not self._settings.track:
            return []
        header, rgb = frame.read()
        cv2.setRNGSeed(frame.number)  # the tracker's colour models use random numbers: equal runs, equal results
        return self._masks(frame, header, rgb, self._tracker.update(rgb, frame.time_ns / 1e9))

    def _masks(self, frame: Frame, header: Any, rgb: NDArray[np.uint8], targets: list[Tracked]) -> list[Message]:
        crops = [target.crop for target in targets if target.crop.area]
        tracked = messages.tracked_masks(header, self._request_id, self._settings.words, targets, self._phrases)
        written = [
            self._message("labels", frame, messages.image(header, labels_image(crops, rgb.shape[:2]), "mono8")),
            self._message("tracked", frame, tracked),
        ]
        if topic := OVERLAYS[self._settings.overlay]:
            picture = draw_overlay(rgb, crops, phrases=[self._phrases.get(crop.label, "") for crop in crops])
            raw = self._settings.overlay == "raw"
            drawn = messages.image(header, picture, "rgb8") if raw else messages.jpeg(header, picture)
            written.append(self._message(topic, frame, drawn))
        return written

    def _message(self, topic: str, frame: Frame, message: Any) -> Message:
        kind = message.__msgtype__
        return f"{self._settings.name}/{topic}", kind, frame.time_ns, messages.typestore().serialize_cdr(message, kind)


def annotated(
    part: Iterable[Frame],
    annotator: Annotator,
    on_frame: Callable[[Frame], object],
    on_skip: Callable[[Frame, ImageError], object],
) -> Iterator[Message]:
    """The results of one part: the first frame that can be used is asked about, the others are tracked.

    Args:
        part: Its frames.
        annotator: Does the work.
        on_frame: Called with each frame before its results.
        on_skip: Called with each frame that cannot be used, and why.
    """
    asked = False
    for frame in part:
        on_frame(frame)
        try:
            results = annotator.track(frame) if asked else annotator.ask(frame)
        except ImageError as error:
            on_skip(frame, error)
            continue
        asked = True
        yield from results


@dataclass(frozen=True, eq=False)
class PartResults:
    """The results of one part, as they come from another process.

    Args:
        messages: To write.
        answers: Index in the part of the frame that was asked about, and the answer in one line.
        skipped: Index of each frame that cannot be used, and why.
    """

    messages: list[Message]
    answers: list[tuple[int, str]]
    skipped: list[tuple[int, str]]


@dataclass(frozen=True)
class AnnotatePart:
    """Annotates one part. It can be sent to another process."""

    settings: AnnotationSettings

    def __call__(self, engine: SupportedEngine, part: list[Frame]) -> PartResults:
        results = PartResults([], [], [])
        begin = part[0].number

        def note_answer(frame: Frame, answer: Answer) -> None:
            results.answers.append((frame.number - begin, summary(answer)))

        def note_skip(frame: Frame, error: ImageError) -> None:
            results.skipped.append((frame.number - begin, str(error)))

        annotator = Annotator(engine, self.settings, note_answer)
        results.messages.extend(annotated(part, annotator, lambda frame: None, note_skip))
        return results


def summary(answer: Answer) -> str:
    """An answer in one line, for people."""
    masks = sum(1 for region in answer.regions if region.mask.area)
    return f"{answer.text} ({masks} mask{'' if masks == 1 else 's'})"


class Job:
    """The work on one output, kept in a folder beside it until the output is complete.

    Args:
        out: Recording to write.
        settings: What is written.
        description: Everything that decides the output; unfinished work with another description is not continued.
    """

    def __init__(self, out: Path, settings: AnnotationSettings, description: dict[str, Any]) -> None:
        self.folder = out.with_name(f".unfinished-{out.name}")
        self._out = out
        self._settings = settings
        self._description = description

    def resume(self, restart: bool) -> int:
        """Number of frames that an earlier run completed. ``restart`` removes its work. Raises ConfigError."""
        record = self.folder / "job.json"
        text = json.dumps(self._description, indent=1)
        if restart:
            shutil.rmtree(self.folder, ignore_errors=True)
        if record.is_file() and record.read_text("utf-8") != text:
            raise ConfigError(
                f"{self.folder} has unfinished work of another recording or with other options; use the same ones to "
                "continue it, or --restart to remove it"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        if not record.is_file():
            with replacing(record) as unfinished:
                unfinished.write_text(text, "utf-8")
        done = 0
        for part in self._parts():  # several workers may have left gaps
            begin, end = map(int, part.stem.split("-"))
            if begin == done:
                done = end
        return done

    def annotate(
        self,
        frames: Iterable[Frame],
        annotator: Annotator,
        on_frame: Callable[[Frame], object],
        on_skip: Callable[[Frame, ImageError], None],
        is_mine: Callable[[int], bool] = lambda index: True,
    ) -> None:
        """Annotate those of ``frames`` that are not done. Several threads may do it at once, each with all frames.

        Args:
            frames: From the end of what ``resume`` returned.
            annotator: Of this thread.
            on_frame: Called with each frame that is annotated.
            on_skip: Called with each of them that cannot be used.
            is_mine: Whether this thread annotates the part with this index, from 0.
        """
        for index, part in enumerate(split(frames, self._settings.every_s)):
            if not is_mine(index):
                continue
            first = next(part)
            if not self._has(first):
                self._annotate_part(itertools.chain([first], part), annotator, on_frame, on_skip)

    def missing(self, frames: Iterable[Frame]) -> Iterator[list[Frame]]:
        """The parts that are not done, each with all its frames in memory. frames: as in :meth:`annotate`."""
        for part in split(frames, self._settings.every_s):
            first = next(part)
            if not self._has(first):
                yield [first, *part]

    def save(self, part: Sequence[Frame], results: Iterable[Message]) -> None:
        """Store the results of a part of :meth:`missing`; it is done then."""
        written = self._write(part[0].number, results)
        self._complete(written, part[0].number, part[-1].number)

    def finish(self, recording: Recording, originals: bool, on_message: Callable[[], object]) -> list[str]:
        """Write the output and remove the folder of the job.

        Args:
            recording: The input.
            originals: Whether its own messages are written too.
            on_message: Called for each message that is written.

        Returns:
            Topics that were left out, since their message type is not defined.
        """
        left_out: list[str] = []

        def fill(writer: BagWriter) -> None:
            if originals:
                left_out.extend(recording.define(writer))
            self._define(writer)
            for message in merged(recording.messages() if originals else [], self._results()):
                writer.write(message)
                on_message()

        write_recording(self._out, self.folder, fill)
        shutil.rmtree(self.folder)
        return left_out

    @property
    def empty(self) -> bool:
        """Whether no frame has a result."""
        return next(self._results(), None) is None

    def _has(self, first: Frame) -> bool:
        """Whether the part that begins with a frame is done."""
        return any(self.folder.glob(f"{first.number:0{DIGITS}}-*.mcap"))

    def _annotate_part(
        self,
        part: Iterator[Frame],
        annotator: Annotator,
        on_frame: Callable[[Frame], object],
        on_skip: Callable[[Frame, ImageError], None],
    ) -> None:
        first = next(part)
        numbers: list[int] = []

        def note(frame: Frame) -> None:
            on_frame(frame)
            numbers.append(frame.number)

        written = self._write(first.number, annotated(itertools.chain([first], part), annotator, note, on_skip))
        self._complete(written, numbers[0], numbers[-1])

    def _write(self, first: int, results: Iterable[Message]) -> Path:
        """A file with results of the part that begins with the frame ``first``."""

        def fill(writer: BagWriter) -> None:
            self._define(writer)
            for message in results:
                writer.write(message)

        written = self.folder / f"part-{first}.mcap"
        write_recording(written, self.folder, fill)
        return written

    def _complete(self, written: Path, first: int, last: int) -> None:
        """Give a file the name of a part that is done."""
        written.replace(self.folder / f"{first:0{DIGITS}}-{last + 1:0{DIGITS}}.mcap")

    def _define(self, writer: BagWriter) -> None:
        for topic, kind in self._settings.topics().items():
            writer.define_own(topic, kind)

    def _parts(self) -> list[Path]:
        return sorted(self.folder.glob(f"{'[0-9]' * DIGITS}-*.mcap"))

    def _results(self) -> Iterator[Message]:
        for part in self._parts():
            with open_recording(part) as results:
                yield from results.messages()


def split(frames: Iterable[Frame], every_s: float) -> Iterator[Iterator[Frame]]:
    """Frames in consecutive parts of ``every_s`` seconds; 0 makes one part of all."""
    begun: int | None = None

    def part(frame: Frame) -> int:
        nonlocal begun
        if begun is None or 0 < every_s * 1e9 <= frame.time_ns - begun:
            begun = frame.time_ns
        return begun

    return (group for _, group in itertools.groupby(frames, part))
