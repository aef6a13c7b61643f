"""Outcomes on disk, picture by picture, so that an evaluation that was ended goes on where it was.

The file is JSON lines: what decides the results, then a line for each picture, in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lisa_ros.atomic import replacing
from lisa_ros.engine.api import EngineInfo
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.examples import ExampleTurn, Picture, Question
from lisa_ros.evaluation.metrics import Overlap
from lisa_ros.evaluation.reliability import ScoredMask
from lisa_ros.evaluation.run import Outcome, PictureResult


class Journal:
    """The unfinished work on a report.

    Args:
        report: File that is written at the end; the journal lies beside it until then.
        description: Everything that decides the results.
    """

    def __init__(self, report: Path, description: Mapping[str, Any]) -> None:
        self.file = report.with_name(f".unfinished-{report.name}l")
        self._description = json.dumps(description, sort_keys=True)

    def read(self, restart: bool) -> list[tuple[str, PictureResult]]:
        """Name and result of each picture that an earlier run completed.

        Args:
            restart: Remove them, and begin again.

        Raises:
            ConfigError: The earlier run had other options.
        """
        if restart:
            self.remove()
        if not self.file.exists():
            self.file.write_text(self._description + "\n", "utf-8")
        text = self.file.read_text("utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()  # a line without an end was being written
        if lines[:1] != [self._description]:
            raise ConfigError(
                f"{self.file} is unfinished work on other data or with other options; use the same ones to continue "
                "it, or --restart to remove it"
            )
        with replacing(self.file) as unfinished:
            unfinished.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return [_read(json.loads(line)) for line in lines[1:]]

    def keep(self, results: Iterable[tuple[Picture, PictureResult]]) -> Iterator[tuple[Picture, PictureResult]]:
        """Pass results on; each is written first."""
        with self.file.open("a", encoding="utf-8") as file:
            for picture, result in results:
                line = {
                    "picture": picture.name,
                    "outcomes": [asdict(outcome) for outcome in result.outcomes],
                    "engine": {**asdict(result.info), "capabilities": sorted(result.info.capabilities)},
                }
                file.write(json.dumps(line, default=_plain) + "\n")
                file.flush()
                yield picture, result

    def remove(self) -> None:
        """Remove the file."""
        self.file.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """A number of numpy as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} in an outcome")


def _read(line: Mapping[str, Any]) -> tuple[str, PictureResult]:
    info = EngineInfo(**{**line["engine"], "capabilities": frozenset(line["engine"]["capabilities"])})
    return line["picture"], PictureResult([_outcome(one) for one in line["outcomes"]], [], info)


def _outcome(values: Mapping[str, Any]) -> Outcome:
    def overlap(one: Mapping[str, int] | None) -> Overlap | None:
        return None if one is None else Overlap(**one)

    question = values["question"]
    return Outcome(
        **{
            **values,
            "question": Question(
                **{
                    **question,
                    "turns": tuple(ExampleTurn(**turn) for turn in question["turns"]),
                    "names": tuple(question["names"]),
                }
            ),
            "free": Overlap(**values["free"]),
            "forced": overlap(values["forced"]),
            "bound": overlap(values["bound"]),
            "baselines": {name: Overlap(**one) for name, one in values["baselines"].items()},
            "masks": tuple(ScoredMask(**mask) for mask in values["masks"]),
        }
    )
