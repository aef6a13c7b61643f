"""A vision-language model behind a URL: real servers where they can show it, a stub for the rest."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import servers
import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from machine_speed import limit
from numpy.typing import NDArray
from servers import Handler, Stub, answering, endless, refusing, silent

from lisa_ros import load_engine
from lisa_ros.cli import main
from lisa_ros.engine.api import Answer, Ask, Conversation, Event, Regions, Stage, Token
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Busy, Cancelled, CommandError, ConfigError, ImageError, LisaError, NotReady, TimedOut
from lisa_ros.evaluation.self_check import SQUARES, Verdict, self_check
from lisa_ros.grounded.finds import Cut, Find
from lisa_ros.grounded.locators.refusals import KEY_VARIABLE
from lisa_ros.grounded.locators.streams import MOST_BYTES, chunk_of

pytest.importorskip("openai", reason="needs the extra endpoint")

CUP = '{"label": "cup", "bbox_2d": [100, 100, 500, 500], "point_2d": [300, 300]}'
FORK = '{"label": "fork", "bbox_2d": [600, 600, 900, 900]}'
FOUND = f'{{"present": true, "objects": [{CUP}, {FORK}]}}'
RGB = NDArray[np.uint8]


def load(folder: Path, url: str, **options: Any) -> SupportedEngine:
    return load_engine(folder, device="cpu", options={"endpoint": url, "check": "off", **options})


def ask(engine: SupportedEngine, rgb: RGB, text: str = "the red cup", **options: Any) -> Answer:
    return engine.ask(engine.encode(rgb), Ask(text, **options))


def _again_and_again(engine: SupportedEngine, encoded: Any, ask_: Ask) -> None:
    for _ in range(500):
        engine.ask(encoded, ask_)


# --- over llama.cpp


def test_llama_answers_by_the_schema_and_the_finds_are_cut(llama, endpoint_engine: Path, rgb: RGB) -> None:
    engine = load(endpoint_engine, llama.url, dialect="qwen3-vl", max_objects=2)
    events: list[Event] = []
    encoded = engine.encode(rgb)
    answers = [
        engine.ask(encoded, Ask(text, max_new_tokens=400), on_event=events.append, details=True)
        for text in ("the red cup", "a fork", "what holds coffee?")
    ]
    for answer in answers:
        assert answer.found != bool(answer.absent)
        for region in answer.regions:
            assert 0 < region.score < 1  # log probabilities came
            assert answer.text[slice(*region.span)] == region.phrase
    assert any(answer.found for answer in answers)
    assert any(isinstance(event, Regions) for event in events)


@pytest.fixture(scope="module")
def random_llama(tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Process]:
    """llama.cpp with random weights: it does not end by itself."""
    pytest.importorskip("xllamacpp", reason="needs llama.cpp: pip install -r requirements/test.txt")
    with servers.llama_server(tiny("qwen3_vl"), tmp_path_factory.mktemp("random")) as server:
        yield server


def test_a_closed_stream_frees_llama_for_the_next_command(random_llama, endpoint_engine: Path, rgb: RGB) -> None:
    engine = load(endpoint_engine, random_llama.url, dialect="qwen3-vl", max_objects=2)
    encoded = engine.encode(rgb)
    begun = time.monotonic()

    def stop() -> bool:
        return time.monotonic() > begun + 0.05  # a fast machine ends the answer within 0.5 s

    with pytest.raises(Cancelled):  # verbatim, so that no schema ends the answer
        engine.ask(encoded, Ask("go on", verbatim=True, max_new_tokens=7000), should_stop=stop)
    assert time.monotonic() - begun < limit(3)
    begun = time.monotonic()
    engine.ask(encoded, Ask("the red cup", max_new_tokens=4))
    assert time.monotonic() - begun < limit(5)


def test_a_killed_server_costs_its_command_and_is_found_again(random_llama, endpoint_engine: Path, rgb: RGB) -> None:
    engine = load(endpoint_engine, random_llama.url, dialect="qwen3-vl", max_objects=1)
    encoded = engine.encode(rgb)
    ask_ = Ask("the red cup", max_new_tokens=40)
    engine.ask(encoded, ask_)
    killed = threading.Timer(0.3, random_llama.kill)
    killed.start()
    with pytest.raises(LisaError, match=r"broke off|cannot be reached"):
        _again_and_again(engine, encoded, ask_)
    killed.join()
    with pytest.raises(NotReady, match="cannot be reached"):
        engine.ask(encoded, ask_)
    random_llama.start()
    engine.ask(encoded, ask_)


def test_a_model_that_llama_does_not_have_is_an_error(llama, endpoint_engine: Path, rgb: RGB) -> None:
    engine = load(endpoint_engine, llama.url, endpoint_model="Qwen/Qwen3-VL-8B-Instruct")
    with pytest.raises(NotReady, match=r"serves .*, not 'Qwen/Qwen3-VL-8B-Instruct'"):
        ask(engine, rgb)


def test_robots_share_llama_and_every_command_is_answered_once(llama, endpoint_engine: Path, rgb: RGB) -> None:
    robots, commands = 4, 3
    outcomes: dict[tuple[int, int], list[str]] = {(r, c): [] for r in range(robots) for c in range(commands)}

    def robot(number: int) -> None:
        engine = load(endpoint_engine, llama.url, dialect="qwen3-vl", max_objects=2)
        encoded = engine.encode(rgb)
        for command in range(commands):
            begun = time.monotonic()
            cancels = command == number % commands

            def stop(cancels=cancels, begun=begun) -> bool:
                return cancels and time.monotonic() > begun + 0.05

            try:
                engine.ask(encoded, Ask("the red cup", max_new_tokens=60), should_stop=stop)
                outcomes[number, command].append("answered")
            except Cancelled:
                outcomes[number, command].append("canceled")

    threads = [threading.Thread(target=robot, args=(number,)) for number in range(robots)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limit(60))
    assert all(len(outcome) == 1 for outcome in outcomes.values()), outcomes


# --- what a command becomes


def test_the_objects_become_regions_while_the_answer_streams(endpoint_engine: Path, rgb: RGB) -> None:
    more = threading.Event()

    def chat(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        handler.send_text(f'{{"present": true, "objects": [{CUP}')
        assert more.wait(limit(20))  # the rest only after the first mask was seen
        handler.send_text(f', {FORK}], "reason": "It holds coffee."}}')
        handler.send_event("[DONE]")

    with Stub(chat) as stub:
        engine = load(endpoint_engine, stub.url)
        events: list[Event] = []

        def on_event(event: Event) -> None:
            events.append(event)
            if isinstance(event, Regions):
                more.set()

        answer = engine.ask(engine.encode(rgb), Ask("the cup", explain=True), on_event=on_event)
    assert [region.phrase for region in answer.regions] == ["cup", "fork"]
    assert answer.text == "cup, fork. It holds coffee."
    sent = [region for event in events if isinstance(event, Regions) for region in event.regions]
    assert [id(region) for region in sent] == [id(region) for region in answer.regions]
    assert [event.text for event in events if isinstance(event, Token)][-1] == answer.text
    assert [event.name for event in events if isinstance(event, Stage)] == ["reading", "generating"]
    assert isinstance(events[1], Stage)  # before the first word that is shown, and the first mask
    assert 0 < answer.timings.first_mask_s < answer.timings.total_s


def test_the_request_is_one_picture_and_a_schema_that_decides_first(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub() as stub:
        engine = load(endpoint_engine, stub.url, max_objects=3)
        answer = ask(engine, rgb)
        request = stub.requests[0]
    assert answer.absent == ("the red cup",)
    assert not answer.found
    assert request["temperature"] == 0
    assert request["stream"] is True
    picture, text = request["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert '"the red cup"' in text["text"]
    schema = request["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["present", "objects"]
    assert schema["properties"]["objects"]["maxItems"] == 3


def test_a_session_sends_the_answers_back_as_they_were(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(answering(FOUND)) as stub:
        engine = load(endpoint_engine, stub.url)
        history = Conversation()
        ask(engine, rgb, "the cup", history=history)
        ask(engine, rgb, "no, the other one", history=history)
        first, second = stub.requests
    assert [message["role"] for message in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == FOUND
    assert second["messages"][0]["content"] == first["messages"][0]["content"][1]["text"]
    assert len(history.turns) == 2


def test_a_second_command_encodes_nothing(endpoint_engine: Path, rgb: RGB, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub(answering(FOUND)) as stub:
        engine = load(endpoint_engine, stub.url)
        encoded = engine.encode(rgb)
        for name in ("embed",):
            monkeypatch.setattr(type(engine.engine.cutter), name, None)
        for name in ("view",):
            monkeypatch.setattr(type(engine.engine.locator), name, None)
        assert engine.ask(encoded, Ask("the cup")).found
        assert engine.ask(encoded, Ask("the fork")).found


def test_points_and_a_box_need_no_server(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(refusing(500, "not asked")) as stub:
        engine = load(endpoint_engine, stub.url)
        encoded = engine.encode(rgb)
        assert engine.ask(encoded, Ask(box=(64, 48, 256, 192))).found
        assert engine.ask(encoded, Ask("the cup", points=[(100, 100), (600, 400)], point_labels=[1, 0])).found
        with pytest.raises(CommandError, match="outside of the picture"):
            engine.ask(encoded, Ask(points=[(700, 100)]))
        with pytest.raises(CommandError, match="outside of the picture"):
            engine.ask(encoded, Ask(box=(700, 100, 20, 20)))
        assert stub.requests == []


def test_an_endpoint_stands_in_for_the_folders_own_locator(tiny, tmp_path: Path, rgb: RGB) -> None:
    """Its weights are not even read."""
    (tmp_path / "locator").mkdir()
    (tmp_path / "locator" / "config.json").write_text('{"model_type": "qwen3_vl"}')
    (tmp_path / "cutter").symlink_to(tiny("sam2"))
    folder = tiny_models.recipe(tmp_path, {"model": "locator"}, {"model": "cutter"})
    with Stub(answering(FOUND)) as stub:
        assert ask(load(folder, stub.url), rgb).found


# --- absence


def test_absent_has_the_words_of_the_model(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(answering('{"present": false, "objects": [], "reason": "There is only a fork."}')) as stub:
        answer = ask(load(endpoint_engine, stub.url), rgb, "the cup", explain=True)
    assert (answer.text, answer.absent, answer.found) == ("There is only a fork.", ("the cup",), False)


def test_what_is_drawn_after_absent_was_said_is_left_out(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(answering(f'{{"present": false, "objects": [{CUP}]}}')) as stub:
        assert not ask(load(endpoint_engine, stub.url), rgb).found


@pytest.mark.parametrize(("yes", "found"), [(0.9, True), (0.2, False)])
def test_the_check_asks_about_each_mask_and_yes_is_the_score(
    yes: float, found: bool, endpoint_engine: Path, rgb: RGB
) -> None:
    with Stub(answering(FOUND, yes=yes)) as stub:
        engine = load(endpoint_engine, stub.url, check="absence")
        answer = engine.ask(engine.encode(rgb), Ask("the cup"), details=True)
    assert len(stub.requests) == 3
    assert stub.requests[1]["max_tokens"] == 1
    assert stub.requests[1]["top_logprobs"] == 5
    assert answer.found == found
    assert bool(answer.absent) != found
    if found:
        assert answer.details["seg_probabilities"] == pytest.approx([yes, yes])
        assert all(yes / 2 < region.score <= yes for region in answer.regions)


def test_a_server_without_log_probabilities_says_yes_in_words(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(answering(FOUND)) as stub:
        answer = ask(load(endpoint_engine, stub.url, check="absence"), rgb)
    assert len(answer.regions) == 2


# --- a server's refusals and lies


def test_a_schema_that_is_refused_is_left_out_from_then_on(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(refusing(400, "response_format is not supported", then=answering(FOUND))) as stub:
        engine = load(endpoint_engine, stub.url)
        assert ask(engine, rgb).found
        assert ask(engine, rgb).found
    assert ["response_format" in request for request in stub.requests] == [True, False, False]


def test_blanks_under_a_schema_are_asked_again_without_it(endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        if "response_format" not in body:
            return answering(FOUND)(handler, body)
        handler.begin_stream()
        handler.send_text('{"present": ')
        while not handler.stub.stopping.wait(0.001):
            handler.send_text(" \n")

    with Stub(chat) as stub:
        assert ask(load(endpoint_engine, stub.url), rgb).found
        assert stub.closed.wait(limit(5))


@pytest.mark.parametrize(
    ("status", "message", "error", "remedy"),
    [
        (401, "bad key", NotReady, KEY_VARIABLE),
        (403, "bad key", NotReady, KEY_VARIABLE),
        (404, "no such model", NotReady, "must end in /v1"),
        (429, "slow down", Busy, "ask again later"),
        (503, "Loading model", Busy, "ask again later"),
        (504, "gateway", TimedOut, "gave up"),
        (400, "exceeds the maximum context length of 4096 tokens", CommandError, "shorten the command"),
        (400, "cannot decode image", ImageError, "cannot use the picture"),
        (418, "teapot", LisaError, "418: teapot"),
        (500, "CUDA error", LisaError, "500: CUDA error"),
    ],
)
def test_a_status_becomes_an_error_with_the_remedy(
    status: int, message: str, error: type[LisaError], remedy: str, endpoint_engine: Path, rgb: RGB
) -> None:
    with Stub(refusing(status, message)) as stub:
        engine = load(endpoint_engine, stub.url)
        with pytest.raises(error, match=remedy):
            ask(engine, rgb)
        assert len(stub.requests) <= 2  # with the schema and without; nothing is repeated
        stub.chat = answering(FOUND)
        assert ask(engine, rgb).found  # and the next command finds the server again


def test_an_error_inside_the_stream_is_an_error(endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        handler.send_text(f'{{"present": true, "objects": [{CUP}')
        handler.send_event(json.dumps({"error": {"message": "does not match the expected format", "code": 500}}))

    with Stub(chat) as stub, pytest.raises(LisaError, match="does not match the expected format"):
        ask(load(endpoint_engine, stub.url, structured="off"), rgb)


def test_a_dead_connection_is_tried_once_more(endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        if len(handler.stub.requests) % 2:
            handler.close_connection = True  # without a byte
            handler.connection.shutdown(2)
        else:
            answering(FOUND)(handler, body)

    with Stub(chat) as stub:
        assert ask(load(endpoint_engine, stub.url), rgb).found
        assert len(stub.requests) == 2


def test_a_connection_that_always_dies_is_an_error_after_two_tries(endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        handler.close_connection = True
        handler.connection.shutdown(2)

    with Stub(chat) as stub:
        with pytest.raises(NotReady):
            ask(load(endpoint_engine, stub.url), rgb)
        assert len(stub.requests) == 2


def test_a_stream_that_breaks_off_is_not_tried_again(endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.send_text('{"present": true, ')
        handler.close_connection = True
        handler.connection.shutdown(2)

    with Stub(chat) as stub:
        with pytest.raises(LisaError, match="broke off its answer"):
            ask(load(endpoint_engine, stub.url), rgb)
        assert len(stub.requests) == 1


def test_a_web_page_is_no_answer(endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        handler.send_body(200, b"<html><body>Welcome to the router</body></html>", "text/html")

    with Stub(chat) as stub, pytest.raises(LisaError, match="of type 'text/html', no stream of events"):
        ask(load(endpoint_engine, stub.url, structured="off"), rgb)


def test_an_event_that_is_not_json_is_an_error(endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        handler.send_event("<html>")

    with Stub(chat) as stub, pytest.raises(LisaError, match="not JSON: <html>"):
        ask(load(endpoint_engine, stub.url, structured="off"), rgb)


@pytest.mark.parametrize("event", ["{}", "[]", "3", '{"choices": []}', '{"choices": [{"delta": null}]}'])
def test_an_event_of_another_shape_says_nothing(event: str, endpoint_engine: Path, rgb: RGB) -> None:
    def chat(handler: Handler, body: dict[str, Any]) -> None:
        handler.begin_stream()
        handler.send_event(event)
        handler.send_event("[DONE]")

    with Stub(chat) as stub:
        assert not ask(load(endpoint_engine, stub.url), rgb).found


@pytest.mark.parametrize("newline", [b"", b"\n"], ids=["one line", "many lines"])
def test_a_hundred_megabytes_are_not_read(newline: bytes, endpoint_engine: Path, rgb: RGB) -> None:
    sent = 0

    def chat(handler: Handler, body: dict[str, Any]) -> None:
        nonlocal sent
        handler.begin_stream()
        for _ in range(1600):
            handler.wfile.write(b"x" * 65535 + newline)
            sent += 65536

    with Stub(chat) as stub:
        engine = load(endpoint_engine, stub.url, structured="off")
        with pytest.raises(LisaError, match="over 4 MB for one answer"):
            ask(engine, rgb)
        assert stub.closed.wait(limit(10))
    assert sent < 10 * MOST_BYTES  # sockets' buffers included


def test_an_answer_that_never_ends_is_stopped_by_its_length(endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(endless) as stub:
        ask(load(endpoint_engine, stub.url, structured="off"), rgb, max_new_tokens=1)
        assert stub.closed.wait(limit(5))


@pytest.mark.parametrize("chat", [silent, endless], ids=["before the stream", "inside the stream"])
def test_a_server_that_hangs_costs_its_command_only(chat, endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(chat) as stub:
        engine = load(endpoint_engine, stub.url, timeout_s=0.5)
        encoded = engine.encode(rgb)
        begun = time.monotonic()
        with pytest.raises(TimedOut, match=r"0\.5 s"):
            engine.ask(encoded, Ask("the cup", max_new_tokens=100_000))
        assert time.monotonic() - begun < limit(2)
        assert stub.closed.wait(limit(5))


@pytest.mark.parametrize("chat", [silent, endless], ids=["before the stream", "inside the stream"])
def test_a_cancel_closes_the_stream_at_once(chat, endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(chat) as stub:
        engine = load(endpoint_engine, stub.url)
        encoded = engine.encode(rgb)
        asked = threading.Event()
        begun = 0.0

        def stop() -> bool:
            nonlocal begun
            if stub.requests and not asked.is_set():
                asked.set()
                begun = time.monotonic()
            return asked.is_set() and time.monotonic() > begun + 0.1

        with pytest.raises(Cancelled):
            engine.ask(encoded, Ask("the cup", max_new_tokens=100_000), should_stop=stop)
        assert stub.closed.wait(limit(1))


def test_a_server_that_starts_later_is_found(endpoint_engine: Path, rgb: RGB) -> None:
    port = servers.free_port()
    engine = load(endpoint_engine, f"http://127.0.0.1:{port}/v1")
    with pytest.raises(NotReady, match="cannot be reached"):
        engine.encode(rgb)
    stub = Stub(answering(FOUND))
    with stub:
        engine.engine.locator.chat._client.base_url = stub.url  # the same engine, as if the server had come up
        assert ask(engine, rgb).found


def test_a_certificate_of_another_name_is_refused(endpoint_engine: Path, rgb: RGB, tmp_path: Path) -> None:
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout key.pem -out cert.pem -subj /CN=another.example",
        shell=True,
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with Stub() as stub:
        stub._server.socket = context.wrap_socket(stub._server.socket, server_side=True)
        engine = load(endpoint_engine, stub.url.replace("http:", "https:"))
        with pytest.raises(NotReady, match=r"cannot be reached \(.*[Cc]ertificate|CERTIFICATE"):
            engine.encode(rgb)
        assert stub.requests == []


# --- settings


def test_the_key_comes_from_the_environment_only(
    endpoint_engine: Path, rgb: RGB, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "secret-key")
    with Stub(answering(FOUND)) as stub:
        engine = load(endpoint_engine, stub.url)
        ask(engine, rgb)
        assert stub.headers[0]["authorization"] == "Bearer secret-key"
    assert "secret-key" not in caplog.text
    assert "they leave this machine" in caplog.text
    with pytest.raises(ConfigError, match="no option 'key'"):
        load(endpoint_engine, stub.url, key="secret-key")


def test_without_an_endpoint_nothing_is_sent(endpoint_engine: Path) -> None:
    with pytest.raises(ConfigError, match="set the option endpoint"):
        load_engine(endpoint_engine, device="cpu")


def test_a_model_of_no_known_family_needs_a_dialect(endpoint_engine: Path) -> None:
    with Stub(models=["gpt-4o"]) as stub, pytest.raises(ConfigError, match="set the option dialect"):
        load(endpoint_engine, stub.url)


@pytest.mark.parametrize("listed", [[], None], ids=["an empty list", "no list"])
def test_a_server_that_lists_no_model_needs_its_name(listed, endpoint_engine: Path, rgb: RGB) -> None:
    with Stub(answering(FOUND)) as stub:
        stub.models = listed
        with pytest.raises(NotReady, match="set the option endpoint_model"):
            ask(load(endpoint_engine, stub.url), rgb)
        assert ask(load(endpoint_engine, stub.url, endpoint_model="Qwen3-VL-8B"), rgb).found


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("endpoint", "gpu-box:8000"),
        ("endpoint", 3),
        ("structured", "perhaps"),
        ("check", "masks"),
        ("max_objects", 0),
        ("max_side", 10),
        ("jpeg_quality", 101),
        ("timeout_s", 0),
        ("timeout_s", "long"),
        ("dialect", "klingon"),
        ("think", "yes"),
    ],
)
def test_a_bad_option_is_named_with_the_remedy(option: str, value: Any, endpoint_engine: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{option} is .*; (give|choose)"):
        load_engine(endpoint_engine, device="cpu", options={option: value})


# --- lisa check over an endpoint


def test_check_says_what_a_server_lacks(endpoint_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Stub(refusing(400, "response_format is not supported", then=answering("There is none."))) as stub:
        assert main(["check", str(endpoint_engine), "--device", "cpu", "--option", f"endpoint={stub.url}"]) == 3
    printed = capsys.readouterr().out
    assert "dialect qwen3-vl" in printed
    assert "the server refuses JSON schemas" in printed
    assert "there are no log probabilities" in printed
    assert "absent      good" in printed


def test_check_names_a_wrong_dialect(endpoint_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that answers in pixels, while the dialect expects 0 to 1000."""
    squares = {tuple(square.size): square for square in SQUARES}

    def chat(handler: Handler, body: dict[str, Any]) -> None:
        url = body["messages"][-1]["content"][0]["image_url"]["url"]
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8), cv2.IMREAD_COLOR)
        height, width = picture.shape[:2]
        square = min(squares.values(), key=lambda one: abs(one.size[1] / one.size[0] - width / height))
        x, y = square.x * width / square.size[1], square.y * height / square.size[0]
        side = square.side * width / square.size[1]
        box = [round(n) for n in (x, y, x + side, y + side)]
        answering(f'{{"present": true, "objects": [{{"label": "square", "bbox_2d": {box}}}]}}')(handler, body)

    with Stub(chat) as stub:
        engine = load(endpoint_engine, stub.url)
        engine.engine.cutter = BoxCutter()
        result = self_check(engine)
    assert any("pixels read as shares" in remark for remark in result.remarks)
    assert result.whole == Verdict.POOR


class BoxCutter:
    """Cuts the box itself, so that what is measured is where boxes land."""

    name = "boxes"

    def embed(self, rgb: RGB) -> tuple[int, int]:
        return rgb.shape[:2]

    def cut(self, embedding: tuple[int, int], finds: list[Find], multimask: bool = False) -> list[Cut]:
        cuts = []
        for find in finds:
            logits = np.full(embedding, -5.0, np.float32)
            x1, y1, x2, y2 = (round(number) for number in find.box)
            logits[y1:y2, x1:x2] = 5.0
            cuts.append(Cut(logits, logits))
        return cuts


def test_check_of_a_server_that_is_off_is_broken(endpoint_engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{servers.free_port()}/v1"
    assert main(["check", str(endpoint_engine), "--device", "cpu", "--option", f"endpoint={url}"]) == 1
    assert "is the server on?" in capsys.readouterr().out


def test_lisa_segment_uses_a_server(endpoint_engine: Path, rgb: RGB, tmp_path: Path, capsys) -> None:
    picture, out = tmp_path / "photo.png", tmp_path / "mask.png"
    cv2.imwrite(str(picture), rgb[:, :, ::-1])
    words = ["segment", str(picture), "the cup", "--model", str(endpoint_engine), "--device", "cpu", "--mask", str(out)]
    with Stub(answering(FOUND, yes=0.9)) as stub:
        assert main([*words, "--option", f"endpoint={stub.url}"]) == 0
        assert "mask 2 (fork)" in capsys.readouterr().out
        stub.chat = answering('{"present": false, "objects": []}')
        assert main([*words, "--option", f"endpoint={stub.url}"]) == 3
        stub.chat = refusing(503, "Loading model")
        assert main([*words, "--option", f"endpoint={stub.url}"]) == 1
    assert cv2.imread(str(out), cv2.IMREAD_GRAYSCALE).shape == rgb.shape[:2]
    assert "ask again later" in capsys.readouterr().err


# --- any bytes


KEYS = ["choices", "delta", "content", "logprobs", "error", "token", "logprob", "top_logprobs", "code", "message"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "logprobs", "error", "token", "logprob", "top_logprobs", "code"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON.map(json.dumps) | st.text(max_size=50) | st.just("[" * 100_000))
def test_any_event_is_a_chunk_or_an_error_of_ours(data: str) -> None:
    try:
        chunk = chunk_of(data)
    except LisaError:
        return
    assert all(isinstance(piece.text, str) for piece in chunk.pieces)


def test_an_answer_with_characters_that_utf8_lacks_goes_back_into_the_conversation(
    endpoint_engine: Path, rgb: RGB
) -> None:
    with Stub(answering(FOUND.replace("cup", "\ud800 <|im_end|>"))) as stub:
        engine = load(endpoint_engine, stub.url)
        history = Conversation()
        assert ask(engine, rgb, "the cup", history=history).found
        assert ask(engine, rgb, "the other", history=history).found
    assert "? < |im_end|>" in stub.requests[1]["messages"][1]["content"]
