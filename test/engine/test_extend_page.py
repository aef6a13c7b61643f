"""docs/extend.md shows what exists: its engine is the example's file, and its packaging gives the engine a name."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Regions
from lisa_ros.engine.registry import GROUP
from lisa_ros.errors import Cancelled, ConfigError

RED, BLUE, GREY = (220, 30, 30), (30, 40, 220), (128, 128, 128)


def blocks(repository: Path, language: str) -> list[str]:
    page = (repository / "docs/extend.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def block(repository: Path, language: str) -> str:
    """The first block of a language."""
    return blocks(repository, language)[0]


@pytest.fixture
def on_path(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(repository / "examples")


def picture(*colours: tuple[int, int, int]) -> np.ndarray:
    """A block of each colour on grey."""
    rgb = np.full((40, 40 * len(colours) + 10, 3), GREY, np.uint8)
    for number, colour in enumerate(colours):
        rgb[5:25, 40 * number + 5 : 40 * number + 35] = colour
    return rgb


def test_the_page_shows_the_example_as_it_is(repository: Path) -> None:
    assert block(repository, "python") == (repository / "examples/colour_engine.py").read_text("utf-8")


def test_the_page_shows_the_proposer_as_it_is(repository: Path) -> None:
    shown = [text for text in blocks(repository, "python") if "A proposer in one file" in text]
    assert shown == [(repository / "examples/bright_proposer.py").read_text("utf-8")]


def test_the_pages_proposer_is_chosen_from(repository: Path, on_path: None) -> None:
    pytest.importorskip("torch")
    options = {"family": "nearest", "proposer": "bright_proposer:load", "proposer_options": {"level": 200}}
    engine = load_engine(device="cpu", options=options)
    encoded = engine.encode(picture(RED, BLUE))
    assert not len(engine.proposals(encoded))
    rgb = np.array(picture(RED, BLUE))
    rgb[5:25, 5:35] = 255
    assert [(c.x, c.y, c.width, c.height) for c in engine.proposals(engine.encode(rgb)).crops] == [(5, 5, 30, 20)]
    with pytest.raises(ConfigError, match="option level is 300"):
        load_engine(device="cpu", options=options | {"proposer_options": {"level": 300}})


def test_the_packaging_of_the_page_makes_the_engine_known(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metadata is what pip writes from the page's pyproject.toml."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read TOML")
    project = tomllib.loads(block(repository, "toml"))["project"]
    about = tmp_path / f"lisa_colours-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    entries = "".join(f"{name} = {value}\n" for name, value in project["entry-points"][GROUP].items())
    (about / "entry_points.txt").write_text(f"[{GROUP}]\n{entries}")
    (tmp_path / "colour_engine.py").write_text((repository / "examples/colour_engine.py").read_text())
    model = tmp_path / "model"
    model.mkdir()
    (model / "engine.json").write_text(json.dumps(json.loads(block(repository, "json"))))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "colour_engine", raising=False)
    engine = load_engine(model)
    assert engine.ask(engine.encode(picture(RED)), Ask("the red thing")).found


@pytest.mark.usefixtures("on_path")
def test_the_example_finds_colours_by_name() -> None:
    engine = load_engine("colour_engine:load")
    events = []
    answer = engine.ask(engine.encode(picture(RED, BLUE)), Ask("the blue and the RED one, not green"), events.append)
    assert answer.text == "This is the red thing. There is no green thing. This is the blue thing."
    red, blue = answer.regions
    assert [(region.mask.x, region.mask.width, region.mask.area) for region in (red, blue)] == [
        (5, 30, 600),
        (45, 30, 600),
    ]
    assert [answer.text[slice(*region.span)] for region in (red, blue)] == ["red thing", "blue thing"]
    assert [event.regions for event in events if isinstance(event, Regions)] == [(red,), (blue,)]


@pytest.mark.usefixtures("on_path")
@pytest.mark.parametrize("colour", [(200, 20, 20), (200, 20, 60), (255, 60, 40)])
def test_both_ends_of_the_hue_circle_are_red(colour: tuple[int, int, int]) -> None:
    engine = load_engine("colour_engine:load")
    assert engine.ask(engine.encode(picture(colour)), Ask("red")).found


@pytest.mark.usefixtures("on_path")
def test_the_example_answers_without_a_mask_where_nothing_has_the_colour() -> None:
    engine = load_engine("colour_engine:load")
    encoded = engine.encode(picture(BLUE))
    assert engine.ask(encoded, Ask("the red thing")).text == "There is no red thing."
    assert engine.ask(encoded, Ask("the scarred thing")).text.startswith("Name a colour: red, ")
    assert engine.ask(encoded, Ask(targets=["red", "blue"])).absent == ("red",)
    assert not engine.ask(engine.encode(picture(GREY)), Ask("red, green and blue")).regions


@pytest.mark.usefixtures("on_path")
def test_the_example_can_be_cancelled_and_refuses_wrong_options() -> None:
    engine = load_engine("colour_engine:load")
    with pytest.raises(Cancelled):
        engine.ask(engine.encode(picture(RED)), Ask("red"), should_stop=lambda: True)
    for options in ({"size": 1}, {"smallest": 2.0}, {"smallest": "much"}):
        with pytest.raises(ConfigError, match=r"has no option 'size'|option smallest is"):
            load_engine("colour_engine:load", options=options)
