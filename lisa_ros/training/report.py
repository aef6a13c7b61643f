"""What a training loop reports while it runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lisa_ros.atomic import replacing
from lisa_ros.errors import ConfigError

log = logging.getLogger(__name__)

EVERY = 50
"""Steps between lines, unless the recipe says otherwise."""

ON_THE_BAR = ("loss", "ce", "answer", "prompt", "bce", "dice")


def open_board(folder: Path, step: int) -> Any:
    """TensorBoard's writer. What a stopped run wrote of steps after ``step`` is dropped.

    Raises ConfigError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("logs need tensorboard; install it with \"pip install 'lisa_ros[train]'\"") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


class Report:
    """Progress of a training loop: a bar with losses and the time left on a terminal, and lines of means.

    A line has the means of all values since the line before. It goes to the log, to a json file and, if it is
    installed, to TensorBoard.

    Args:
        path: The json file. TensorBoard's logs are in the folder ``log`` beside it, under the same name.
        every: Steps between lines.
        silent: Report nothing; for all processes but the main one.
    """

    def __init__(self, path: Path, every: int = EVERY, *, silent: bool = False) -> None:
        self._path, self._every, self._silent = path, every, silent
        self._lines: list[dict[str, float]] = []
        self._bar, self._board = tqdm(disable=True), None
        self._forget(time.time())

    def steps(self, first: int, last: int) -> Iterator[int]:
        """``first`` to ``last`` - 1, the steps that are left. Lines that a stopped run wrote about them are dropped."""
        self._first, self._last = first, last
        if self._silent:
            yield from range(first, last)
            return
        earlier = json.loads(self._path.read_text()) if first and self._path.exists() else []
        self._lines = [line for line in earlier if line["step"] <= first]
        self._began, self._cpu = time.time(), time.process_time()
        self._forget(self._began)
        if find_spec("tensorboard"):
            self._board = open_board(self._path.parent / "log" / self._path.stem, first)
        else:
            log.info("no logs for TensorBoard: it is not installed (pip install 'lisa_ros[train]')")
        bar = tqdm(None, self._path.stem, last, initial=first, unit="step", disable=None, dynamic_ncols=True)
        try:
            with logging_redirect_tqdm(), bar as self._bar:
                for step in range(first, last):
                    yield step
                    self._bar.update()
        finally:
            if self._board is not None:
                self._board.close()

    def add(self, values: dict[str, float], pictures: int) -> None:
        """Add a step's values, and how many pictures it saw."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._since += 1
        self._pictures += pictures
        self._bar.set_postfix({name: f"{values[name]:.3g}" for name in ON_THE_BAR if name in values}, refresh=False)

    def due(self, done: int) -> bool:
        """Whether a line is to be written after ``done`` steps."""
        return done % self._every == 0 or done == self._last

    def write(self, done: int, more: Mapping[str, float]) -> None:
        """Write a line: the means since the last one, ``more``, and the seconds since this process began."""
        if self._silent:
            return
        now = time.time()
        line = {"step": done} | {name: total / self._since for name, total in self._sums.items()} | dict(more)
        line |= {"pictures_per_s": self._pictures / (now - self._last_line)}
        line |= {"wall_s": now - self._began, "cpu_s": time.process_time() - self._cpu}
        self._lines.append(line)
        with replacing(self._path) as unfinished:
            unfinished.write_text(json.dumps(self._lines, indent=1))
        seconds_left = (now - self._began) * (self._last - done) / (done - self._first)
        values = " ".join(f"{name} {value:.4g}" for name, value in line.items())
        log.info("%s, %.1f minutes left: %s", self._path.stem, seconds_left / 60, values)
        if self._board is not None:
            for name in line.keys() - {"step"}:
                self._board.add_scalar(name, line[name], done)
        self._forget(time.time())

    def _forget(self, now: float) -> None:
        self._sums: dict[str, float] = {}
        self._since = self._pictures = 0
        self._last_line = now
