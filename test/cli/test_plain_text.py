"""Control characters: refused in commands, escaped in everything that is printed or written for a person."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lisa_ros.cli import main
from lisa_ros.cli.segment import _Stream
from lisa_ros.engine.api import Answer, Ask, EngineInfo, Region, Regions, Token, crop_mask
from lisa_ros.plain_text import EscapingFormatter, escaped, escaped_json

HOSTILE = "\x1b]0;owned\x07\x9b2J\x7f\u202e the cup"
SHOWN = "\\x1b]0;owned\\x07\\x9b2J\\x7f\\u202e the cup"
SCENE = str(Path(__file__).parents[2] / "demo" / "scene.jpg")


class Hostile:
    """An engine whose every word is hostile."""

    info = EngineInfo(name=HOSTILE, device="cpu", precision="fp32", capabilities=frozenset())

    def encode(self, rgb: np.ndarray) -> tuple[int, int]:
        return rgb.shape[:2]

    def ask(self, encoded, ask: Ask, on_event: Callable, should_stop: Callable, details: bool = False) -> Answer:
        mask = np.zeros(encoded, bool)
        mask[10:20, 10:20] = True
        region = Region(crop_mask(mask, 1, 0.9), phrase=HOSTILE)
        on_event(Regions((region,)))
        return Answer(HOSTILE, (region,), absent=())


def load(*, model, device, precision, options, progress) -> Hostile:
    return Hostile()


MODEL = f"{__name__}:load"


def plain(text: str) -> bool:
    return escaped(text) == text and "owned" in text


def test_text_is_escaped_and_json_keeps_its_content() -> None:
    assert escaped(f"a\tb\nc ä ☕ {HOSTILE}\r\udc80") == f"a\tb\nc ä ☕ {SHOWN}\\r\\udc80"
    document = json.dumps({"answer": HOSTILE, "name": "ä\udc80"}, ensure_ascii=False)
    assert escaped(escaped_json(document)) == escaped_json(document)
    assert json.loads(escaped_json(document)) == json.loads(document)


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\x07", "\x7f", "\x9b", "\udc80"])
@pytest.mark.parametrize(
    "command",
    [
        ("segment", SCENE, "the {}cup"),
        ("segment", SCENE, "--verbatim", "the {}cup"),
        ("segment", SCENE, "the cup", "the {}cup"),
        ("segment", SCENE, "--target", "the {}cup"),
        ("bag", "in.mcap", "--out", "out.mcap", "--command", "the {}cup"),
        ("bag", "in.mcap", "--out", "out.mcap", "--target", "the {}cup"),
    ],
)
def test_a_command_with_a_control_character_is_refused_with_its_position(
    command: tuple[str, ...], character: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.format(character) for word in command]) == 1
    errors = capsys.readouterr().err
    assert f"has the control character U+{ord(character):04X} at position 4; send plain text" in errors
    assert character not in errors


def test_a_typed_command_with_a_control_character_is_refused_and_the_next_one_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the \x1bcup\nthe cup\n"))
    assert main(["segment", SCENE, "--interactive", "--model", MODEL]) == 0
    out = capsys.readouterr().out
    assert "U+001B at position 4" in out and out.count("mask 1") == 1


def test_what_a_model_says_is_printed_and_written_without_control_characters(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    name = tmp_path / "\x1b[2Jowned.png"
    Image.open(SCENE).save(name)
    written = tmp_path / "answer.json"
    arguments = ["segment", str(name), "the cup", "--model", MODEL, "--out", str(tmp_path / "\x1b[2Jo.png")]
    assert main([*arguments, "--json", str(written)]) == 0
    shown = capsys.readouterr().out
    assert plain(shown) and shown.count(SHOWN) == 2 and "wrote" in shown
    assert plain(written.read_text("utf-8"))
    assert json.loads(written.read_text("utf-8"))["answers"][0]["answer"] == HOSTILE
    assert main([*arguments, "--json", "-"]) == 0
    shown = capsys.readouterr().out
    assert plain(shown) and json.loads(shown)["image"] == str(name)
    growing: list[str] = []
    stream = _Stream(lambda text: growing.append(text))
    stream(Token(HOSTILE))
    assert growing == [HOSTILE]  # escaped where it is printed
    _Stream()(Token(HOSTILE))
    assert plain(capsys.readouterr().out)


def test_errors_are_printed_without_control_characters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    missing = str(tmp_path / HOSTILE)
    for arguments in (
        ["segment", missing, "the cup"],
        ["segment", SCENE, "the cup", "--model", missing],
        ["inspect", missing],
        ["train", "--config", missing],
        ["evaluate", "--data", missing],
    ):
        assert main(arguments) == 1
        assert plain(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["segment", SCENE, "the cup", "--point", HOSTILE])
    assert plain(capsys.readouterr().err)


def test_an_evaluation_shows_and_writes_no_control_characters(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    Image.open(SCENE).save(data / "a.png")
    shape = {"label": HOSTILE, "points": [[10, 10], [40, 10], [40, 40]]}
    label = {"text": [HOSTILE], "is_sentence": False, "shapes": [shape], "kind": f"<b>{HOSTILE}"}
    (data / "a.json").write_text(json.dumps(label))
    page = tmp_path / "page.html"
    assert main(["evaluate", "--data", str(data), "--model", MODEL, "--html", str(page)]) == 0
    assert plain(capsys.readouterr().out)
    text = page.read_text("utf-8")
    assert plain(text)
    assert f"&lt;b&gt;{SHOWN}" in text


def test_log_messages_are_escaped(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("a", logging.WARNING, "f", 1, "skipped: %s", (HOSTILE,), None)
    assert EscapingFormatter().format(record) == f"skipped: {SHOWN}"
