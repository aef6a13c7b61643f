"""``lisa bag``: a recording and a command in, the same recording with masks, answers and an overlay out."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lisa_ros.bag.annotation import OVERLAYS, Annotator, Job, Wishes
from lisa_ros.bag.recording import Frame, Message, Recording, RecordingError, open_recording
from lisa_ros.cli.segment import add_model_arguments, load
from lisa_ros.errors import CommandError, ConfigError, ImageError
from lisa_ros.perception.masks import Segmentation

SKIPS_SHOWN = 5
NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "After an interruption the same command goes on where it stopped."
    parser.add_argument("recording", type=Path, metavar="IN", help=".mcap or .db3 file, or a folder with metadata.yaml")
    parser.add_argument("--command", required=True, metavar="TEXT", help="what to find, in your own words")
    parser.add_argument("--out", type=Path, required=True, help="recording to write: a file.mcap, or a folder")
    parser.add_argument("--restart", action="store_true", help="drop what an interrupted run left, and begin anew")
    asking = parser.add_argument_group("asking")
    asking.add_argument("--topic", help="image topic (default: the only one)")
    asking.add_argument("--every", type=float, default=5.0, metavar="S", help="ask the model every S seconds; 0: once")
    asking.add_argument("--no-tracking", action="store_true", help="masks only for the frames that the model saw")
    asking.add_argument("--explain", action="store_true", help="ask for the reason too")
    asking.add_argument("--verbatim", action="store_true", help="send the command as it is, without LISA's sentences")
    output = parser.add_argument_group("output")
    output.add_argument("--name", default="/lisa", help="of the topics that are added (default: /lisa)")
    output.add_argument("--overlay", choices=OVERLAYS, default="jpeg", help="picture with the masks (default: jpeg)")
    output.add_argument("--results-only", action="store_true", help="write the results without the original messages")
    add_model_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Annotate a recording."""
    begun = time.monotonic()
    _check(arguments)
    wishes = Wishes(
        arguments.command,
        arguments.explain,
        arguments.verbatim,
        arguments.every,
        not arguments.no_tracking,
        arguments.overlay,
        arguments.name,
    )
    with open_recording(arguments.recording) as recording:
        topic = recording.image_topic(arguments.topic)
        _check_names(recording, wishes, arguments)
        count = recording.frame_count(topic)
        job = Job(arguments.out, wishes, _description(arguments, wishes, topic))
        done = job.take_up(arguments.restart)
        if done:
            print(f"goes on at frame {done} of {count}")
        if done < count:
            _annotate(job, wishes, recording, topic, done, arguments)
        if job.empty:
            raise RecordingError(f"no frame of {topic} in {arguments.recording} can be used; nothing is written")
        _finish(job, recording, arguments)
    print(f"wrote {arguments.out}: {count - done} frames in {time.monotonic() - begun:.1f} s")
    return 0


def _annotate(
    job: Job, wishes: Wishes, recording: Recording, topic: str, done: int, arguments: argparse.Namespace
) -> None:
    said = _Said(recording, topic)
    annotator = Annotator(load(arguments), wishes, said.answered)
    total = recording.frame_count(topic)
    with tqdm(recording.frames(topic, done), "annotating", total, initial=done, unit="frame", disable=None) as frames:
        begun = time.monotonic()
        job.annotate(said.timed(frames), annotator, said.skipped)
    said.finish(time.monotonic() - begun)


def _finish(job: Job, recording: Recording, arguments: argparse.Namespace) -> None:
    originals = not arguments.results_only
    with tqdm(desc="writing", unit="message", disable=None, leave=False) as bar:

        def passed(message: Message) -> Message:
            bar.update()
            return message

        for topic in job.finish(recording, originals, passed):
            print(f"left out, for its message type is not defined in the recording: {topic}")


class _Said:
    """What is told while frames are worked on."""

    def __init__(self, recording: Recording, topic: str) -> None:
        self._topic = topic
        self._begin_ns: int | None = None
        self._end_ns = 0
        self._frames = self._skips = 0

    def timed(self, frames: Any) -> Any:
        """The frames, while their times are noted."""
        for frame in frames:
            self._begin_ns = frame.time_ns if self._begin_ns is None else self._begin_ns
            self._end_ns = frame.time_ns
            self._frames += 1
            yield frame

    def answered(self, frame: Frame, result: Segmentation) -> None:
        masks = sum(1 for mask in result.masks if mask.any())
        tqdm.write(f"{self._at(frame)}: {result.answer} ({masks} mask{'' if masks == 1 else 's'})")

    def skipped(self, frame: Frame, error: ImageError) -> None:
        self._skips += 1
        if self._skips <= SKIPS_SHOWN:
            tqdm.write(f"{self._at(frame)} of {self._topic} is skipped: {error}")

    def finish(self, seconds: float) -> None:
        if self._skips > SKIPS_SHOWN:
            print(f"{self._skips} frames were skipped in all")
        recorded = (self._end_ns - (self._begin_ns or self._end_ns)) / 1e9
        speed = f", {recorded / seconds:.1f} times real time" if seconds and recorded else ""
        print(f"annotated {self._frames} frames, {recorded:.1f} s of recording, in {seconds:.1f} s{speed}")

    def _at(self, frame: Frame) -> str:
        return f"frame {frame.number} at {(frame.time_ns - (self._begin_ns or 0)) / 1e9:.2f} s"


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.command.strip():
        raise CommandError("the command is empty; say what to find, for example 'the thing to drink from'")
    if not 0 <= arguments.every < float("inf"):
        raise ConfigError(f"--every {arguments.every:g}: give seconds, or 0 to ask the model once")
    if not NAME.fullmatch(arguments.name):
        raise ConfigError(f"--name {arguments.name!r} is no ROS name; give one like /lisa")
    if arguments.out.exists():
        raise ConfigError(f"--out {arguments.out} exists; recordings are never overwritten: choose another name")
    if not arguments.out.absolute().parent.is_dir():
        raise ConfigError(f"--out {arguments.out}: there is no folder {arguments.out.parent}; create it first")
    if arguments.out.suffix not in ("", ".mcap"):
        raise ConfigError(f"--out {arguments.out}: '{arguments.out.suffix}' is not written; use .mcap, or a folder")


def _check_names(recording: Recording, wishes: Wishes, arguments: argparse.Namespace) -> None:
    taken = sorted(recording.topics & set(wishes.topics()))
    if taken and not arguments.results_only:
        raise ConfigError(f"{arguments.recording} has {taken[0]} already; name the new topics with --name /another")


def _description(arguments: argparse.Namespace, wishes: Wishes, topic: str) -> dict[str, Any]:
    """What makes the output what it is; how it is packed at the end does not count."""
    files = [arguments.recording] if arguments.recording.is_file() else sorted(arguments.recording.iterdir())
    recording = [(str(file.resolve()), file.stat().st_size, os.stat(file).st_mtime_ns) for file in files]
    model = {name: str(getattr(arguments, name)) for name in ("model", "vision_tower", "conversation", "precision")}
    return {"recording": [list(file) for file in recording], "topic": topic, **vars(wishes), **model}
