"""``lisa bag``: write a recording again, with masks, answers and an overlay."""

from __future__ import annotations

import argparse
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lisa_ros import load_engine
from lisa_ros.bag.annotation import OVERLAYS, AnnotationSettings, Annotator, Job
from lisa_ros.bag.recording import Frame, Recording, RecordingError, open_recording
from lisa_ros.cli import model
from lisa_ros.cli.data_set import positive_count
from lisa_ros.cli.model import load
from lisa_ros.engine.api import Answer
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CommandError, ConfigError, ImageError
from lisa_ros.plain_text import check_plain, escaped

SKIPS_SHOWN = 5
NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "After an interruption, run the same command again: it continues where it stopped."
    parser.add_argument("recording", type=Path, metavar="IN", help=".mcap or .db3 file, or a folder with metadata.yaml")
    parser.add_argument("--command", default="", metavar="TEXT", help="what to find, in your own words")
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="name of an object to find; may be repeated"
    )
    parser.add_argument("--out", type=Path, required=True, help="recording to write: a file.mcap, or a folder")
    parser.add_argument(
        "--restart", action="store_true", help="remove the unfinished work of an interrupted run, and begin again"
    )
    asking = parser.add_argument_group("query")
    asking.add_argument("--topic", help="image topic (default: the only topic with colour images)")
    asking.add_argument(
        "--every", type=float, default=5.0, metavar="S", help="run the model every S seconds of recording (5); 0: once"
    )
    asking.add_argument("--no-tracking", action="store_true", help="masks only for the frames that the model processed")
    asking.add_argument("--explain", action="store_true", help="ask for the reason too")
    asking.add_argument(
        "--verbatim", action="store_true", help="send the command unchanged, without words that the engine adds"
    )
    output = parser.add_argument_group("output")
    output.add_argument("--name", default="/lisa", help="prefix of the new topics (default: /lisa)")
    output.add_argument("--overlay", choices=OVERLAYS, default="jpeg", help="picture with the masks (default: jpeg)")
    output.add_argument("--results-only", action="store_true", help="write the results without the original messages")
    parser.add_argument(
        "--workers",
        type=positive_count,
        default=1,
        metavar="N",
        help="parts at once (1); more than 1 is for a server with replicas (lisa serve --ray)",
    )
    model.add_model_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Annotate a recording. Returns the exit code."""
    begun = time.monotonic()
    _check(arguments)
    model.check_workers(arguments)
    settings = AnnotationSettings(
        arguments.command,
        tuple(arguments.target),
        arguments.explain,
        arguments.verbatim,
        arguments.every,
        not arguments.no_tracking,
        arguments.overlay,
        arguments.name,
    )
    with open_recording(arguments.recording) as recording:
        topic = recording.image_topic(arguments.topic)
        _check_names(recording, settings, arguments)
        count = recording.frame_count(topic)
        job = Job(arguments.out, settings, _description(arguments, settings, topic))
        done = job.resume(arguments.restart)
        if done:
            print(f"continues at frame {done} of {count}")
        if done < count:
            _annotate(job, settings, recording, topic, done, arguments)
        if job.empty:
            raise RecordingError(f"no frame of {topic} in {arguments.recording} can be used; nothing is written")
        _finish(job, recording, arguments)
    resumed = f", {done} of them by an earlier run," if done else ""
    print(f"wrote {escaped(arguments.out)}: {count} frames{resumed} in {time.monotonic() - begun:.1f} s")
    return 0


def _annotate(
    job: Job,
    settings: AnnotationSettings,
    recording: Recording,
    topic: str,
    done: int,
    arguments: argparse.Namespace,
) -> None:
    model.warn_of_demo_model(arguments)
    engine = load(arguments)
    engine.check(settings.ask)
    model.warn_of_ignored_command(engine, [settings.ask])
    more = [load_engine(arguments.model, options=model.options(arguments)) for _ in range(arguments.workers - 1)]
    total, failed = recording.frame_count(topic), threading.Event()
    with tqdm(desc="annotating", total=total, initial=done, unit="frame", disable=None) as bar:
        printer = _Printer(topic, next(recording.frames(topic, done)), bar)
        begun = time.monotonic()

        def work(number: int, engine: SupportedEngine) -> None:
            """Every so many-th part, from this worker's own reading of the recording."""
            annotator = Annotator(engine, settings, printer.print_answer)
            with open_recording(arguments.recording) as own:
                job.annotate(
                    own.frames(topic, done),
                    annotator,
                    printer.count,
                    printer.print_skip,
                    lambda index: index % arguments.workers == number and not failed.is_set(),
                )

        if not more:
            work(0, engine)
        else:
            _at_once(work, [engine, *more], failed)
    printer.print_summary(time.monotonic() - begun)


def _at_once(
    work: Callable[[int, SupportedEngine], None], engines: Sequence[SupportedEngine], failed: threading.Event
) -> None:
    """Run ``work`` in a thread for each engine. The first failure, or Ctrl-C, ends the others after their part."""
    with ThreadPoolExecutor(len(engines)) as pool:
        working = [pool.submit(work, number, engine) for number, engine in enumerate(engines)]
        try:
            for done in as_completed(working):
                done.result()
        except BaseException:
            failed.set()
            raise


def _finish(job: Job, recording: Recording, arguments: argparse.Namespace) -> None:
    with tqdm(desc="writing", unit="message", disable=None, leave=False) as bar:
        for topic in job.finish(recording, not arguments.results_only, bar.update):
            print(f"left out, because its message type is not defined in the recording: {escaped(topic)}")


class _Printer:
    """Prints what happens while frames are annotated."""

    def __init__(self, topic: str, first: Frame, bar: tqdm[Any]) -> None:
        self._topic = topic
        self._begin_ns = self._end_ns = first.time_ns
        self._bar = bar
        self._frames = self._skips = 0
        self._counting = threading.Lock()

    def count(self, frame: Frame) -> None:
        """Note a frame that is annotated now."""
        with self._counting:
            self._end_ns = max(self._end_ns, frame.time_ns)
            self._frames += 1
            self._bar.update()

    def print_answer(self, frame: Frame, answer: Answer) -> None:
        masks = sum(1 for region in answer.regions if region.mask.area)
        tqdm.write(f"{self._at(frame)}: {escaped(answer.text)} ({masks} mask{'' if masks == 1 else 's'})")

    def print_skip(self, frame: Frame, error: ImageError) -> None:
        self._skips += 1
        if self._skips <= SKIPS_SHOWN:
            tqdm.write(escaped(f"{self._at(frame)} of {self._topic} is skipped: {error}"))

    def print_summary(self, seconds: float) -> None:
        if self._skips > SKIPS_SHOWN:
            print(f"{self._skips} frames were skipped in total")
        recorded = (self._end_ns - self._begin_ns) / 1e9
        speed = f", {recorded / seconds:.1f} times real time" if seconds and recorded else ""
        print(f"annotated {self._frames} frames, {recorded:.1f} s of recording, in {seconds:.1f} s{speed}")

    def _at(self, frame: Frame) -> str:
        return f"frame {frame.number} at {(frame.time_ns - self._begin_ns) / 1e9:.2f} s"


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.command.strip() and not arguments.target:
        raise CommandError("no command; add --command 'the thing to drink from', or --target cup")
    check_plain(arguments.command, "the command")
    for target in arguments.target:
        check_plain(target, "a target")
    if not 0 <= arguments.every < float("inf"):
        raise ConfigError(f"--every {arguments.every:g}: give seconds, or 0 to ask the model once")
    if not NAME.fullmatch(arguments.name):
        raise ConfigError(f"--name {arguments.name!r} is not a ROS name; give one like /lisa")
    if arguments.out.exists():
        raise ConfigError(f"--out {arguments.out} exists; recordings are never overwritten: choose another name")
    if not arguments.out.absolute().parent.is_dir():
        raise ConfigError(f"--out {arguments.out}: there is no folder {arguments.out.parent}; create it first")
    if arguments.out.suffix not in ("", ".mcap"):
        raise ConfigError(
            f"--out {arguments.out}: '{arguments.out.suffix}' cannot be written; give a name that ends in .mcap, or a "
            "folder without an ending"
        )


def _check_names(recording: Recording, settings: AnnotationSettings, arguments: argparse.Namespace) -> None:
    taken = sorted(recording.topics & set(settings.topics()))
    if taken and not arguments.results_only:
        raise ConfigError(f"{arguments.recording} has {taken[0]} already; name the new topics with --name /another")


def _description(arguments: argparse.Namespace, settings: AnnotationSettings, topic: str) -> dict[str, Any]:
    """Everything that decides the results; how they are written at the end does not count."""
    files = [arguments.recording] if arguments.recording.is_file() else sorted(arguments.recording.iterdir())
    recording = [[str(file.resolve()), file.stat().st_size, os.stat(file).st_mtime_ns] for file in files]
    engine = {"model": arguments.model, "options": model.options(arguments), "precision": arguments.precision}
    return {"recording": recording, "topic": topic, **vars(settings), **engine}
