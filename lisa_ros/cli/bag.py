"""``lisa bag``: write a recording again, with masks, answers and an overlay."""

from __future__ import annotations

import argparse
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lisa_ros.bag.annotation import (
    OVERLAYS,
    AnnotatePart,
    AnnotationSettings,
    Annotator,
    Job,
    PartResults,
    summary,
)
from lisa_ros.bag.recording import Frame, RecordingError, open_recording, recordings_in
from lisa_ros.cli import model
from lisa_ros.engine.api import Answer
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import CommandError, ConfigError, ImageError
from lisa_ros.plain_text import check_plain, escaped

SKIPS_SHOWN = 5
NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "After an interruption, run the same command again: it continues where it stopped."
    parser.add_argument(
        "recording",
        type=Path,
        metavar="IN",
        help=".mcap or .db3 file, a folder with metadata.yaml, or a folder of such recordings",
    )
    parser.add_argument("--command", default="", metavar="TEXT", help="what to find, in your own words")
    parser.add_argument(
        "--target", action="append", default=[], metavar="NAME", help="name of an object to find; may be repeated"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="recording to write: a file.mcap, or a folder; a folder of recordings, where IN is one",
    )
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
    model.add_workers_argument(parser, "parts")
    model.add_model_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Annotate a recording, or each of a folder. Returns the exit code."""
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
    with _places(arguments, settings) as places:
        works = [_Work(source, out, settings, arguments) for source, out in places]
        waiting = [work for work in works if not work.is_written() and not work.begin()]
        if waiting:
            model.warn_of_demo_model(arguments)
            (_annotate_by_ray if isinstance(arguments.workers, str) else _annotate_here)(waiting, settings, arguments)
        for work in works:
            if not work.out.exists():  # its parts were all done
                work.finish()
    return 0


@contextmanager
def _places(arguments: argparse.Namespace, settings: AnnotationSettings) -> Iterator[list[tuple[Path, Path]]]:
    """Each recording, and where it is written to. A folder of outputs has a record of its options until it is complete.

    Raises:
        ConfigError: The output cannot be written, or is unfinished work with other options.
    """
    recordings = recordings_in(arguments.recording)
    if not recordings:
        _check_is_new(arguments.out)
        yield [(arguments.recording, arguments.out)]
        return
    if arguments.out.suffix:
        raise ConfigError(f"--out {arguments.out}: {arguments.recording} has recordings; give a folder for the outputs")
    outs = [arguments.out / (f"{one.stem}.mcap" if one.is_file() else one.name) for one in recordings]
    if twice := [out for out in outs if outs.count(out) > 1]:
        raise ConfigError(f"{arguments.recording} has two recordings named {twice[0].stem}; rename one of them")
    record = arguments.out / ".unfinished.json"
    text = json.dumps({**_options(arguments, settings), "results_only": arguments.results_only}, indent=1)
    if not record.is_file():
        _check_is_new(arguments.out)
        arguments.out.mkdir()
        record.write_text(text, "utf-8")
    elif record.read_text("utf-8") != text:
        raise ConfigError(
            f"{arguments.out} has unfinished work with other options; use the same ones to continue it, or write to "
            "another folder"
        )
    yield list(zip(recordings, outs, strict=True))
    record.unlink()


def _check_is_new(out: Path) -> None:
    if out.exists():
        raise ConfigError(f"--out {out} exists; recordings are never overwritten: choose another name")


class _Work:
    """One recording to annotate.

    Args:
        source: The recording.
        out: Where it is written to.
        settings: What is asked and written.
        arguments: Of the command line.
    """

    def __init__(self, source: Path, out: Path, settings: AnnotationSettings, arguments: argparse.Namespace) -> None:
        self.source = source
        self.out = out
        self._arguments = arguments
        self._begun = time.monotonic()
        with open_recording(source) as recording:
            self.topic = recording.image_topic(arguments.topic)
            taken = sorted(recording.topics & set(settings.topics()))
            if taken and not arguments.results_only:
                raise ConfigError(f"{source} has {taken[0]} already; name the new topics with --name /another")
            self.count = recording.frame_count(self.topic)
        self.job = Job(out, settings, _description(source, arguments, settings, self.topic))
        self.done = 0

    def is_written(self) -> bool:
        """Whether an earlier run over a folder has written this one."""
        written = self.out.exists()
        if written:
            print(f"{escaped(self.out)} is written already")
        return written

    def begin(self) -> bool:
        """Whether an earlier run has done all parts. Raises ConfigError if it had other options."""
        self.done = self.job.resume(self._arguments.restart)
        if self.done:
            print(f"{self.prefix}continues at frame {self.done} of {self.count}")
        return self.done == self.count

    @property
    def prefix(self) -> str:
        """Begins what is printed about this recording, where there are several."""
        return "" if self.source == self._arguments.recording else f"{escaped(self.source.name)}: "

    def first_ns(self) -> int:
        """Time of the first frame that is not done."""
        with open_recording(self.source) as recording:
            return next(recording.frames(self.topic, self.done)).time_ns

    def parts(self) -> Iterator[list[Frame]]:
        """The parts that are not done."""
        with open_recording(self.source) as recording:
            yield from self.job.missing(recording.frames(self.topic, self.done))

    def finish(self) -> None:
        """Write the recording. Raises RecordingError if no frame has a result."""
        if self.job.empty:
            raise RecordingError(f"no frame of {self.topic} in {self.source} can be used; nothing is written")
        with (
            open_recording(self.source) as recording,
            tqdm(desc="writing", unit="message", disable=None, leave=False) as bar,
        ):
            for topic in self.job.finish(recording, not self._arguments.results_only, bar.update):
                print(f"left out, because its message type is not defined in the recording: {escaped(topic)}")
        resumed = f", {self.done} of them by an earlier run," if self.done else ""
        seconds = time.monotonic() - self._begun
        print(f"wrote {escaped(self.out)}: {self.count} frames{resumed} in {seconds:.1f} s")


def _annotate_here(works: Sequence[_Work], settings: AnnotationSettings, arguments: argparse.Namespace) -> None:
    """One recording after another, with the engine of this process or with several clients of a server."""
    engines = model.load_clients(arguments)
    engines[0].check(settings.ask)
    model.warn_of_ignored_command(engines[0], [settings.ask])
    for work in works:
        with tqdm(desc="annotating", total=work.count, initial=work.done, unit="frame", disable=None) as bar:
            printer = _Printer(work, bar)
            _annotate_one(work, engines, settings, printer)
        printer.print_summary()
        work.finish()


def _annotate_one(
    work: _Work, engines: Sequence[SupportedEngine], settings: AnnotationSettings, printer: _Printer
) -> None:
    failed = threading.Event()

    def annotate(number: int, engine: SupportedEngine) -> None:
        """Every so many-th part, from this worker's own reading of the recording."""
        annotator = Annotator(engine, settings, printer.print_answer)
        with open_recording(work.source) as own:
            work.job.annotate(
                own.frames(work.topic, work.done),
                annotator,
                printer.count,
                printer.print_skip,
                lambda index: index % len(engines) == number and not failed.is_set(),
            )

    if len(engines) == 1:
        annotate(0, engines[0])
    else:
        _at_once(annotate, engines, failed)


def _annotate_by_ray(works: Sequence[_Work], settings: AnnotationSettings, arguments: argparse.Namespace) -> None:
    """The parts of all recordings at once, as many as Ray has room for."""
    if not settings.every_s:
        raise ConfigError("--every 0 makes one part of a recording; with --workers ray, give seconds")
    total, done = sum(work.count for work in works), sum(work.done for work in works)
    with (
        model.ray_tasks(arguments) as tasks,
        tqdm(desc="annotating", total=total, initial=done, unit="frame", disable=None) as bar,
    ):
        parts = (((work, part), part) for work in works for part in work.parts())
        for work, group in groupby(tasks.map(AnnotatePart(settings), parts), lambda result: result[0][0]):
            printer = _Printer(work, bar)
            for (_, part), results in group:
                work.job.save(part, results.messages)
                printer.print_results(part, results)
            printer.print_summary()
            work.finish()


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


class _Printer:
    """Prints what happens while frames of one recording are annotated."""

    def __init__(self, work: _Work, bar: tqdm[Any]) -> None:
        self._work = work
        self._bar = bar
        self._started = time.monotonic()
        self._begin_ns = self._end_ns = work.first_ns()
        self._frames = self._skips = 0
        self._counting = threading.Lock()

    def count(self, frame: Frame) -> None:
        """Note a frame that is annotated now."""
        with self._counting:
            self._end_ns = max(self._end_ns, frame.time_ns)
            self._frames += 1
            self._bar.update()

    def print_answer(self, frame: Frame, answer: Answer) -> None:
        self._print_answer(frame, summary(answer))

    def print_skip(self, frame: Frame, error: ImageError | str) -> None:
        self._skips += 1
        if self._skips <= SKIPS_SHOWN:
            tqdm.write(escaped(f"{self._at(frame)} of {self._work.topic} is skipped: {error}"))

    def print_results(self, part: Sequence[Frame], results: PartResults) -> None:
        """As the other methods, for a part that another process has annotated."""
        for frame in part:
            self.count(frame)
        for index, text in results.answers:
            self._print_answer(part[index], text)
        for index, reason in results.skipped:
            self.print_skip(part[index], reason)

    def print_summary(self) -> None:
        seconds = time.monotonic() - self._started
        if self._skips > SKIPS_SHOWN:
            print(f"{self._skips} frames were skipped in total")
        recorded = (self._end_ns - self._begin_ns) / 1e9
        speed = f", {recorded / seconds:.1f} times real time" if seconds and recorded else ""
        print(f"annotated {self._frames} frames, {recorded:.1f} s of recording, in {seconds:.1f} s{speed}")

    def _print_answer(self, frame: Frame, text: str) -> None:
        tqdm.write(f"{self._at(frame)}: {escaped(text)}")

    def _at(self, frame: Frame) -> str:
        return f"{self._work.prefix}frame {frame.number} at {(frame.time_ns - self._begin_ns) / 1e9:.2f} s"


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
    if not arguments.out.absolute().parent.is_dir():
        raise ConfigError(f"--out {arguments.out}: there is no folder {arguments.out.parent}; create it first")
    if arguments.out.suffix not in ("", ".mcap"):
        raise ConfigError(
            f"--out {arguments.out}: '{arguments.out.suffix}' cannot be written; give a name that ends in .mcap, or a "
            "folder without an ending"
        )


def _description(
    source: Path, arguments: argparse.Namespace, settings: AnnotationSettings, topic: str
) -> dict[str, Any]:
    """Everything that decides the results; how they are written at the end does not count."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    recording = [[str(file.resolve()), file.stat().st_size, os.stat(file).st_mtime_ns] for file in files]
    return {"recording": recording, "topic": topic, **_options(arguments, settings)}


def _options(arguments: argparse.Namespace, settings: AnnotationSettings) -> dict[str, Any]:
    engine = {"model": arguments.model, "options": model.options(arguments), "precision": arguments.precision}
    return {**vars(settings), **engine}
