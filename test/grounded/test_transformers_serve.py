"""``transformers serve``, whose habits are the opposite of llama.cpp's: schemas are ignored, there are no log
probabilities and no list of models, requests are not batched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import servers
from machine_speed import limit
from numpy.typing import NDArray

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask
from lisa_ros.errors import Cancelled, LisaError
from lisa_ros.grounded.locators.chat import Message
from lisa_ros.grounded.locators.endpoint import EndpointChat

pytest.importorskip("openai", reason="needs the extra endpoint")
pytest.importorskip("fastapi", reason="needs fastapi: pip install -r requirements/test.txt")
pytest.importorskip("uvicorn", reason="needs uvicorn: pip install -r requirements/test.txt")


@pytest.fixture(scope="module")
def server(tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.Process, str]]:
    model = tiny("llava")
    with servers.transformers_server(model, tmp_path_factory.mktemp("serve")) as process:
        yield process, str(model)


def test_its_habits_are_put_up_with(server, endpoint_engine: Path, rgb: NDArray[np.uint8]) -> None:
    process, model = server
    options = {
        "endpoint": process.url,
        "endpoint_model": model,
        "dialect": "qwen3-vl",
        "check": "off",
        "max_objects": 1,
    }
    engine = load_engine(endpoint_engine, device="cpu", options=options)
    encoded = engine.encode(rgb)
    for _ in range(2):
        answer = engine.ask(encoded, Ask("the red cup", max_new_tokens=12))
        assert answer.found or answer.absent  # random weights write no JSON; their words are the answer
        assert answer.text
    assert "there are no log probabilities: scores tell less" in engine.engine.remarks()
    assert any("schema was not followed" in remark for remark in engine.engine.remarks())

    begun = time.monotonic()
    stopped: list[float] = []

    def stop() -> bool:
        if time.monotonic() > begun + 1.0:
            stopped.append(time.monotonic())
        return bool(stopped)

    with pytest.raises(Cancelled):
        engine.ask(encoded, Ask("go on", verbatim=True, max_new_tokens=3000), should_stop=stop)
    engine.ask(encoded, Ask("the red cup", max_new_tokens=2))  # the server was freed: it does one thing at a time
    assert time.monotonic() - stopped[0] < limit(5)


def test_a_broken_picture_costs_one_command(server) -> None:
    process, model = server
    chat = EndpointChat(process.url, model)
    ask = Message("user", "what is it?", "data:image/jpeg;base64,AAAA")
    with pytest.raises(LisaError, match=r"answered 5\d\d|broke off|cannot use the picture"):
        chat.stream([ask], None, 4, lambda piece: False, lambda: False)
    pieces = []
    hello = Message("user", "hello", chat.picture(np.full((64, 64, 3), 90, np.uint8)))
    chat.stream([hello], None, 60, pieces.append, lambda: False)
    assert pieces  # although the server has closed the connection that the first request used
