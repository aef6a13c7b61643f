"""What a round of training tells while it runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from lisa_ros.atomic import replacing
from lisa_ros.errors import ConfigError

log = logging.getLogger(__name__)

EVERY = 50
"""Steps between lines."""

ON_THE_BAR = ("answer", "prompt", "bce", "dice")


def open_board(folder: Path, step: int) -> Any:
    """TensorBoard's writer. What a stopped run wrote of steps after ``step`` is dropped.

    Raises ConfigError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("logs need tensorboard; install it with \"pip install 'lisa_ros[train]'\"") from error
    return SummaryWriter(str(folder), purge_step=step + 1)


class Report:
    """How a round goes: on a terminal a bar with losses and the time left; every EVERY steps the means of all values
    since the last line, in the log, in a json file and, where it is installed, in TensorBoard.

    path: of the json. TensorBoard's logs are in the folder ``log`` beside it, under the same name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[dict[str, float]] = []
        self._bar, self._board = tqdm(disable=True), None
        self._forget(time.time())

    def steps(self, first: int, last: int) -> Iterator[int]:
        """``first`` to ``last`` - 1, the steps that are left. Lines that a stopped run wrote of these are dropped."""
        earlier = json.loads(self._path.read_text()) if first and self._path.exists() else []
        self._lines = [line for line in earlier if line["step"] <= first]
        self._first, self._last = first, last
        self._began, self._cpu = time.time(), time.process_time()
        self._forget(self._began)
        if find_spec("tensorboard"):
            self._board = open_board(self._path.parent / "log" / self._path.stem, first)
        else:
            log.info("no logs for TensorBoard: it is not installed (pip install 'lisa_ros[train]')")
        bar = tqdm(None, self._path.stem, last, initial=first, unit="step", disable=None, dynamic_ncols=True)
        with logging_redirect_tqdm(), bar as self._bar:
            for step in range(first, last):
                yield step
                self._bar.update()
        if self._board is not None:
            self._board.close()

    def add(self, values: dict[str, float], pictures: int) -> None:
        """What a step came to, and how many pictures it looked at."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._since += 1
        self._pictures += pictures
        self._bar.set_postfix({name: f"{values[name]:.3g}" for name in ON_THE_BAR if name in values}, refresh=False)

    def due(self, done: int) -> bool:
        """Whether a line is to be written after ``done`` steps."""
        return done % EVERY == 0 or done == self._last

    def write(self, done: int, more: dict[str, float]) -> None:
        """A line of the means since the last one, and of ``more``, with the seconds since this process began."""
        now = time.time()
        line = {"step": done} | {name: total / self._since for name, total in self._sums.items()} | more
        line |= {"pictures_per_s": self._pictures / (now - self._last_line)}
        line |= {"wall_s": now - self._began, "cpu_s": time.process_time() - self._cpu}
        self._lines.append(line)
        with replacing(self._path) as unfinished:
            unfinished.write_text(json.dumps(self._lines, indent=1))
        left = (now - self._began) * (self._last - done) / (done - self._first)
        values = " ".join(f"{name} {value:.4g}" for name, value in line.items())
        log.info("%s, %.1f minutes left: %s", self._path.stem, left / 60, values)
        if self._board is not None:
            for name in line.keys() - {"step"}:
                self._board.add_scalar(name, line[name], done)
        self._forget(time.time())

    def _forget(self, now: float) -> None:
        self._sums: dict[str, float] = {}
        self._since = self._pictures = 0
        self._last_line = now
