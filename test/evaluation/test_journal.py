"""An evaluation that was ended goes on where it was, and its report is that of an unbroken one."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisa_ros import cli
from lisa_ros.cli import model as model_cli
from lisa_ros.engine.api import TEACHER_FORCED, Answer, EngineInfo, Region, crop_mask
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import LisaError
from lisa_ros.evaluation.journal import Journal
from lisa_ros.evaluation.run import AskPicture, collect

COUNT = 6


class Bright:
    """Marks bright pixels. It breaks at the picture with the number ``breaks_at``."""

    info = EngineInfo("bright", capabilities=frozenset({TEACHER_FORCED}))

    def __init__(self, breaks_at: int = COUNT) -> None:
        self.encoded = 0
        self._breaks_at = breaks_at

    def encode(self, rgb):
        if self.encoded == self._breaks_at:
            raise LisaError("the power is off")
        self.encoded += 1
        return rgb

    def ask(self, encoded, ask, on_event, should_stop, details=False):
        region = Region(crop_mask(encoded[:, :, 0] > 128, 1, np.float32(0.75)))
        return Answer("Sure, [SEG].", (region,))

    def teacher_forced(self, encoded, asks, answers):
        return encoded[:, :, 0] > 128


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """ReasonSeg's pairs; the bright box lies a little beside the truth."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(COUNT):
        rgb = np.zeros((40, 60, 3), np.uint8)
        rgb[10:30, 10 + number : 40] = 255
        Image.fromarray(rgb).save(folder / f"{number}.jpg", quality=95)
        shape = {"label": "target", "points": [[10, 10], [39, 10], [39, 29], [10, 29]]}
        content = {"text": ["the box"], "is_sentence": False, "shapes": [shape] if number != 2 else []}
        (folder / f"{number}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs ``lisa evaluate`` with an engine; returns the exit code."""

    def evaluate(engine: Bright, name: str, *more: str) -> int:
        monkeypatch.setattr(model_cli, "load", lambda arguments: SupportedEngine(engine))
        return cli.main(["evaluate", "--data", str(data), "--json", str(tmp_path / name), *more])

    return evaluate


def report(file: Path) -> dict:
    """Without the times."""
    content = json.loads(file.read_text())
    return {name: value for name, value in content.items() if not name.endswith("_s")}


def test_a_broken_run_goes_on_and_its_report_is_that_of_an_unbroken_one(run, tmp_path: Path, capsys) -> None:
    assert run(Bright(), "unbroken.json") == 0
    assert run(Bright(breaks_at=4), "report.json") == 1
    assert not (tmp_path / "report.json").exists()
    capsys.readouterr()
    second = Bright()
    assert run(second, "report.json") == 0
    assert "continues at picture 5" in capsys.readouterr().out
    assert second.encoded == COUNT - 4
    assert report(tmp_path / "report.json") == report(tmp_path / "unbroken.json")
    assert report(tmp_path / "report.json")["teacher_forced"]["n"] == COUNT - 1
    assert not list(tmp_path.glob(".unfinished*"))


def test_a_line_that_was_being_written_is_asked_again(run, tmp_path: Path) -> None:
    assert run(Bright(breaks_at=3), "report.json") == 1
    journal = tmp_path / ".unfinished-report.jsonl"
    journal.write_text(journal.read_text()[:-20])
    second = Bright()
    assert run(second, "report.json") == 0
    assert second.encoded == COUNT - 2


def test_all_pictures_may_be_done(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run was ended while it wrote the report: no engine is needed."""
    monkeypatch.setattr(Journal, "remove", lambda self: None)
    assert run(Bright(), "report.json") == 0
    before = report(tmp_path / "report.json")
    assert run(Bright(breaks_at=0), "report.json") == 0
    assert report(tmp_path / "report.json") == before


def test_unfinished_work_with_other_options_is_not_continued(run, data: Path, tmp_path: Path, capsys) -> None:
    assert run(Bright(breaks_at=3), "report.json") == 1
    assert run(Bright(), "report.json", "--seed", "7") == 1
    assert "use the same ones to continue it, or --restart to remove it" in capsys.readouterr().err
    (data / "0.json").unlink()
    assert run(Bright(), "report.json") == 1
    assert "is not as it was when picture 0" in capsys.readouterr().err
    third = Bright()
    assert run(third, "report.json", "--seed", "7", "--restart") == 0
    assert third.encoded == COUNT - 1


def test_a_page_needs_masks_so_it_begins_again(run, tmp_path: Path) -> None:
    page = ["--html", str(tmp_path / "page.html")]
    assert run(Bright(breaks_at=3), "report.json", *page) == 1
    second = Bright()
    assert run(second, "report.json", *page) == 0
    assert second.encoded == COUNT
    assert (tmp_path / "page.html").read_text().count("<img") >= 2


def test_outcomes_are_read_as_they_were_written(data: Path, tmp_path: Path) -> None:
    from lisa_ros.evaluation.examples import read_pictures

    engine, ask = SupportedEngine(Bright()), AskPicture(masks=False)
    journal = Journal(tmp_path / "report.json", {"model": "bright"})
    assert journal.read(restart=False) == []
    written = collect(journal.keep((picture, ask(engine, picture)) for picture in read_pictures(data)))
    read = journal.read(restart=False)
    assert [name for name, _ in read] == [picture.name for picture in read_pictures(data)]
    assert [asdict(one) for _, result in read for one in result.outcomes] == [asdict(one) for one in written]
    assert all(result.info == Bright.info for _, result in read)
