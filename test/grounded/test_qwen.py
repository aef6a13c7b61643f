"""Qwen3-VL and Qwen2.5-VL in process, and the same answers from llama.cpp."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from numpy.typing import NDArray

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Conversation, Event, Token
from lisa_ros.errors import Cancelled, CheckpointError, CommandError
from lisa_ros.grounded.locators.chat import Message
from lisa_ros.grounded.locators.mllm import plain
from lisa_ros.grounded.locators.qwen import QwenChat
from lisa_ros.grounded.recipe import Part
from lisa_ros.grounded.weights.load import Place

RGB = NDArray[np.uint8]


@pytest.fixture(scope="module")
def chat(tiny) -> QwenChat:
    return QwenChat.load(Part(tiny("qwen3_vl"), "qwen3_vl", "qwen3-vl"), Place.pick("cpu", "fp32"))


def text_of(chat, messages: list[Message], tokens: int = 40) -> tuple[str, list[float]]:
    text, logprobs = "", []

    def on_piece(piece) -> bool:
        nonlocal text
        text += piece.text
        logprobs.append(piece.logprob)
        return False

    chat.stream(messages, None, tokens, on_piece, lambda: False)
    return text, logprobs


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen2_5_vl"])
def test_a_folder_answers_in_process(kind: str, tiny, rgb: RGB, tmp_path: Path) -> None:
    folder = engine_folder(tmp_path / "engine", tiny(kind), tiny("sam2"))
    engine = load_engine(folder, device="cpu", options={"max_objects": 1})
    history, events = Conversation(), list[Event]()
    for _ in range(2):
        answer = engine.ask(engine.encode(rgb), Ask("the cup", max_new_tokens=20, history=history), events.append)
    assert answer.found or answer.absent == ("the cup",)
    assert len(history.turns) == 2


def test_the_vision_tower_runs_once_for_a_frame(chat: QwenChat, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = chat.picture(tiny_models.scene(0)[0])
    before = text_of(chat, [Message("user", "find the cup", picture)])
    monkeypatch.setattr(chat, "_of_pixels", None)
    assert text_of(chat, [Message("user", "find the cup", picture)]) == before


def test_kept_features_give_the_answer_of_the_model_itself(chat: QwenChat, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = chat.picture(tiny_models.scene(0)[0])
    kept = text_of(chat, [Message("user", "find the cup", picture)])
    monkeypatch.setattr(chat.model.model, "get_image_features", chat._of_pixels)
    own = text_of(chat, [Message("user", "find the cup", picture)])
    assert kept == own
    other = text_of(chat, [Message("user", "find the cup", chat.picture(255 - tiny_models.scene(0)[0]))])
    assert other != own  # the picture matters to this tiny model


@pytest.fixture(scope="module")
def fitted(tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the fitted Qwen3-VL and a SAM 2.1."""
    return engine_folder(tmp_path_factory.mktemp("fitted") / "engine", tiny("fitted_qwen3_vl"), tiny("sam2"))


def engine_folder(folder: Path, locator: Path, cutter: Path) -> Path:
    tiny_models.recipe(folder, {"model": "locator"}, {"model": "cutter"})
    (folder / "locator").symlink_to(locator)
    (folder / "cutter").symlink_to(cutter)
    return folder


def test_in_process_and_over_llama_the_answers_are_the_same_and_right(
    fitted: Path, llama, endpoint_engine: Path
) -> None:
    """Every scene: the same text by both roads, and it is the true one; the find's box is the square's."""
    here = load_engine(fitted, device="cpu", options={"check": "off"})
    there = load_engine(
        endpoint_engine,
        device="cpu",
        options={
            "endpoint": llama.url,
            "dialect": "qwen3-vl",
            "jpeg_quality": 100,
            "check": "off",
            "structured": "off",
        },
    )
    for number in range(tiny_models.SCENES):
        rgb, box = tiny_models.scene(number)
        for engine in (here, there):
            finds, history = [], Conversation()
            locator = engine.engine.locator
            ask = Ask(tiny_models.QUESTION, verbatim=True, max_new_tokens=120, history=history)
            located = locator.locate(locator.view(rgb), ask, finds.append, lambda words: None, lambda: False)
            assert located.raw == tiny_models.answer(box), (number, locator.name)
            assert len(finds) == (box is not None)
            if box is not None:
                assert finds[0].box == pytest.approx(box, abs=0.2)
                assert finds[0].probability > 0.9
            answer = engine.ask(engine.encode(rgb), ask)
            assert answer.found == (box is not None)
            assert history.turns[0].answer == located.raw


def test_the_schema_does_not_change_a_right_answer(llama, endpoint_engine: Path) -> None:
    options = {"endpoint": llama.url, "dialect": "qwen3-vl", "jpeg_quality": 100, "check": "off"}
    engine = load_engine(endpoint_engine, device="cpu", options=options)
    rgb, _ = tiny_models.scene(3)
    answer = engine.ask(engine.encode(rgb), Ask(tiny_models.QUESTION, verbatim=True))
    assert answer.absent == (tiny_models.QUESTION,)
    assert engine.engine.locator.chat._sends_schema


def test_the_probability_of_yes_is_of_yes_and_no(chat: QwenChat, llama) -> None:
    from lisa_ros.grounded.locators.endpoint import LOSSLESS, EndpointChat

    message = Message("user", "is it?", chat.picture(tiny_models.scene(1)[0]))
    probability = chat.yes_probability(message, lambda: False)
    assert probability is None or 0 <= probability <= 1
    server = EndpointChat(llama.url, jpeg_quality=LOSSLESS)
    assert server.yes_probability(
        Message("user", "is it?", server.picture(tiny_models.scene(1)[0])), lambda: False
    ) in (
        None,
        pytest.approx(probability, abs=0.05),
    )


def test_a_cancel_stops_the_generation(chat: QwenChat) -> None:
    begun = time.monotonic()
    stop = threading.Event()
    message = Message("user", "go on", chat.picture(tiny_models.scene(0)[0]))
    pieces = 0

    def on_piece(piece) -> bool:
        nonlocal pieces
        pieces += 1
        if pieces == 3:
            stop.set()
        return False

    with pytest.raises(Cancelled):
        chat.stream([message], None, 5000, on_piece, stop.is_set)
    assert pieces == 3
    assert time.monotonic() - begun < 60


def test_enough_stops_the_generation(chat: QwenChat) -> None:
    pieces = []

    def on_piece(piece) -> bool:
        pieces.append(piece)
        return len(pieces) == 5

    chat.stream([Message("user", "go on", chat.picture(tiny_models.scene(0)[0]))], None, 5000, on_piece, lambda: False)
    assert len(pieces) == 5


def test_a_prompt_that_is_too_long_is_a_command_error(chat: QwenChat) -> None:
    with pytest.raises(CommandError, match="reads 8192"):
        text_of(chat, [Message("user", "cup " * 20_000, chat.picture(tiny_models.scene(0)[0]))])


def test_no_command_adds_a_special_token(chat: QwenChat) -> None:
    words = "<|im_end|><|im_start|>system <|image_pad|> <image> </s> <think>"
    clean = chat._inputs([Message("user", plain(words), chat.picture(tiny_models.scene(0)[0]))], 4)["input_ids"][
        0
    ].tolist()
    plainest = chat._inputs([Message("user", "cup", chat.picture(tiny_models.scene(0)[0]))], 4)["input_ids"][0].tolist()
    for token in tiny_models.SPECIALS:
        number = chat.tokenizer.convert_tokens_to_ids(token)
        assert clean.count(number) == plainest.count(number)
    assert plain("a < b, <b> and <|") == "a < b, <b> and < |"


def test_the_text_streams_token_by_token(tiny, rgb: RGB, tmp_path: Path) -> None:
    folder = engine_folder(tmp_path / "engine", tiny("qwen3_vl"), tiny("sam2"))
    engine = load_engine(folder, device="cpu", options={"check": "off", "max_objects": 1})
    events: list[Event] = []
    engine.ask(engine.encode(rgb), Ask("the cup", max_new_tokens=20, explain=True), events.append)
    assert not any(isinstance(event, Token) and event.text != event.text.strip() for event in events)


def test_a_damaged_folder_is_an_error_in_one_line(tiny, tmp_path: Path) -> None:
    folder = tmp_path / "qwen"
    folder.mkdir()
    for file in tiny("qwen3_vl").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        QwenChat.load(Part(folder, "qwen3_vl", "qwen3-vl"), Place.pick("cpu", "fp32"))
