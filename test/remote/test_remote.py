"""A remote engine over real servers: the same answers as in process, cancels, limits, lost servers."""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from machine_speed import limit
from serving import TOKEN, Server, free_port, wait_for

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Conversation, Proposals, Regions, Stage, Token, Turn
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import (
    Busy,
    Cancelled,
    CommandError,
    ConfigError,
    ImageError,
    LisaError,
    NotReady,
    OutOfMemory,
    TimedOut,
)

EXACT = {"picture": "png"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("serve"), "standin:load", "--option", "capabilities=explain+history+points")
    yield server
    assert server.stop() == 0, server.said()


@pytest.fixture
def own(tmp_path: Path) -> Iterator:
    """own(model, ...) -> a Server that this test may kill."""
    servers: list[Server] = []

    def start(*arguments, **options) -> Server:
        servers.append(Server(tmp_path, *arguments, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def scene(seed: int = 0) -> np.ndarray:
    """(120, 160, 3) with a bright box; other pixels for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 60, (120, 160, 3), np.uint8)
    pixels[30:70, 40:100] = 240
    return pixels


def local(model: str = "standin:load") -> SupportedEngine:
    """The engine in this process."""
    return load_engine(model, "cpu", progress=lambda share: None)


def remote(server: Server, **options) -> SupportedEngine:
    return load_engine(server.url, options=options)


def ask(engine: SupportedEngine, command: str | Ask, seed: int = 0, **options):
    question = command if isinstance(command, Ask) else Ask(command)
    return engine.ask(engine.encode(scene(seed)), question, **options)


def same_regions(ours, theirs) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a.mask.pixels, b.mask.pixels)
        and (a.mask.x, a.mask.y, a.mask.area, a.mask.centroid) == (b.mask.x, b.mask.y, b.mask.area, b.mask.centroid)
        and (a.score, a.phrase, a.spans) == (b.score, b.phrase, b.spans)
        for a, b in zip(ours, theirs, strict=True)
    )


# --- the same answer


@pytest.mark.parametrize(
    "command",
    ["the box", "both, twice", "many", "nothing", "a unicorn", "with a phrase", "silently", "second thoughts, twice"],
)
def test_the_answer_is_the_one_of_the_engine_in_this_process(server: Server, command: str) -> None:
    expected = ask(local(), command)
    answer = ask(remote(server, **EXACT), command)
    assert answer.text.split()[:-1] == expected.text.split()[:-1]  # the stand-in counts its frames in the last word
    assert answer.absent == expected.absent
    assert same_regions(answer.regions, expected.regions)


def test_events_come_as_from_the_engine_in_this_process(server: Server) -> None:
    ours, theirs = [], []
    answer = ask(remote(server, **EXACT), "both, twice", on_event=ours.append)
    expected = ask(local(), "both, twice", on_event=theirs.append)
    ours = [event for event in ours if event != Stage("encoding")]
    assert [type(event) for event in ours] == [type(event) for event in theirs]
    texts = [[event.text for event in events if isinstance(event, Token)][:-1] for events in (ours, theirs)]
    assert texts[0] == texts[1]
    sent = [region for event in ours if isinstance(event, Regions) for region in event.regions]
    assert [id(region) for region in sent] == [id(region) for region in answer.regions]
    assert same_regions(answer.regions, expected.regions)


def test_jpeg_keeps_the_mask_within_a_pixel_of_its_edge(server: Server) -> None:
    exact, lossy = (ask(remote(server, **options), "the box").regions[0].mask for options in (EXACT, {}))
    assert abs(exact.area - lossy.area) < 200  # the outline of 60 x 40 pixels


def test_every_field_of_a_command_and_of_the_history_arrives(own) -> None:
    server = own("reciting_engine:load")
    masks = np.zeros((3, 120, 160), bool)
    masks[0, 5:9, 7:30], masks[2, 100:, :] = True, True
    proposals = Proposals(masks, np.arange(6.0).reshape(3, 2), np.float32([0.25, 0.5, 1]), ("a", "b", "c"))
    answers, histories = [], []
    for engine in (local("reciting_engine:load"), remote(server, **EXACT)):
        history = Conversation(3, [Turn("Grüße", "😀", ((0, 2), (4, 5))), Turn("what", None)])
        question = Ask(" der ", True, True, ["x", "y"], proposals, [(1.5, 2)], [0], (1, 2, 3, 4), history, 77)
        answers.append(ask(engine, question, details=True))
        histories.append(history)
    assert answers[1].text == answers[0].text
    assert answers[1].absent == answers[0].absent
    assert same_regions(answers[1].regions, answers[0].regions)
    assert histories[0] == histories[1]
    assert len(histories[1].turns) == 3
    assert np.array_equal(answers[1].details["logits"], answers[0].details["logits"])
    assert answers[1].details["logits"].dtype == np.float32
    assert (answers[1].details["ids"], answers[1].details["one"]) == ([1, 2], 7)
    assert "odd" not in answers[1].details  # an object of the engine's own stays there
    assert ask(engine, question).details is None
    wanted = [Ask("one"), Ask("two")]
    forced = [
        one.teacher_forced(one.encode(scene()), wanted, ["abc", "de"])
        for one in (engine, local("reciting_engine:load"))
    ]
    assert np.array_equal(*forced)


def test_lisa_answers_and_converses_as_in_this_process(own, repository: Path) -> None:
    """Logits are bit-equal, teacher-forced masks too: it is the same model and the same pixels."""
    model = str(repository / "test/golden/ckpt")
    server = own(model, "--device", "cpu")
    answers, histories, forced = [], [], []
    for engine in (local(model), remote(server, **EXACT)):
        encoded, history = engine.encode(scene()), Conversation()
        for command in ("the thing to drink from", "and to cut with"):
            answers.append(engine.ask(encoded, Ask(command, history=history, max_new_tokens=16), details=True))
        histories.append(history)
        forced.append(engine.teacher_forced(encoded, [Ask("the cup")], ["It is [SEG]."]))
    assert [answer.text for answer in answers[:2]] == [answer.text for answer in answers[2:]]
    assert histories[0] == histories[1]
    for ours, theirs in zip(answers[:2], answers[2:], strict=True):
        assert ours.details.keys() == theirs.details.keys()
        assert list(ours.details["answer_ids"]) == theirs.details["answer_ids"]
        assert np.array_equal(ours.details["mask_logits"], theirs.details["mask_logits"])
    assert np.array_equal(*forced)


def test_a_frame_is_sent_and_encoded_once(server: Server) -> None:
    engine = remote(server)
    encoded = engine.encode(scene(seed=41))
    stages: list[list[str]] = []
    for _ in range(3):
        events: list = []
        engine.ask(encoded, Ask("the box"), on_event=events.append)
        stages.append([event.name for event in events if isinstance(event, Stage)])
    assert ["encoding" in names for names in stages] == [True, False, False]


def test_a_frame_that_the_server_has_forgotten_is_sent_again(own) -> None:
    server = own("standin:load", "--kept-frames", "1")
    engine = remote(server)
    frames = [engine.encode(scene(seed)) for seed in (1, 2)]
    texts = [engine.ask(frames[at], Ask("the box")).text for at in (0, 1, 0, 0)]
    assert [text[-7:] for text in texts] == ["frame 2", "frame 3", "frame 4", "frame 4"]  # the warm-up is the first
    assert len({len(text) for text in texts}) == 1


# --- cancel, limits


def slow(engine: SupportedEngine, stop: threading.Event, on_event=None) -> None:
    """A command that runs until ``stop``."""
    with pytest.raises(Cancelled):
        ask(engine, "slow", on_event=on_event, should_stop=stop.is_set)


def stop_after(count: int, seen: list):
    return lambda: len(seen) >= count


@pytest.mark.parametrize("silent", [False, True], ids=["while it speaks", "while it is silent"])
def test_a_cancel_frees_the_server(server: Server, silent: bool) -> None:
    canceled, events = server.count("Cancelled"), []
    engine = remote(server)
    command = "linger reading" if silent else "slow"
    with pytest.raises(Cancelled):
        ask(engine, command, on_event=events.append, should_stop=stop_after(1, events))
    wait_for(lambda: server.count("Cancelled") == canceled + 1, "cancel at the server")
    assert ask(engine, "the box").found


def test_a_cancel_reaches_a_command_that_waits(server: Server) -> None:
    engine, other = remote(server), remote(server)
    speaking: list = []
    stop = threading.Event()
    first = threading.Thread(target=slow, args=[engine, stop, speaking.append])
    first.start()
    try:
        wait_for(lambda: speaking, "first command")
        canceled = server.count("Cancelled")
        with pytest.raises(Cancelled):
            ask(other, "the box", should_stop=lambda: server.metric("lisa_waiting") > 0)
        wait_for(lambda: server.count("Cancelled") == canceled + 1, "cancel of the command that waits")
        assert server.metric("lisa_waiting") == 0
        assert server.metric("lisa_running") == 1
    finally:
        stop.set()
        first.join()


def test_one_runs_some_wait_a_further_one_is_busy(own) -> None:
    server = own("standin:load", "--waiting", "1")
    stop = threading.Event()
    engines = [remote(server) for _ in range(3)]

    threads = [threading.Thread(target=slow, args=[engine, stop]) for engine in engines[:2]]
    try:
        for thread in threads:
            thread.start()
        wait_for(lambda: server.metric("lisa_waiting") == 1, "waiting command")
        with pytest.raises(Busy, match="one command runs and 1 wait"):
            ask(engines[2], "the box")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert ask(engines[2], "the box").found


def test_the_servers_time_limit_is_a_timeout(own) -> None:
    server = own("standin:load", "--timeout-s", "0.2")
    with pytest.raises(TimedOut, match=r"more than 0\.2 s"):
        ask(remote(server), "slow")
    assert server.count("TimedOut") == 1


def test_an_engine_that_does_not_stop_makes_the_server_unhealthy(monkeypatch) -> None:
    from lisa_ros.remote.commands import Command, EngineThread, Limits

    thread = EngineThread(local(), Limits(stuck_s=0.0))
    begun, go_on = threading.Event(), threading.Event()

    def stubborn(command: Command) -> dict:
        begun.set()
        go_on.wait()
        return {}

    command = Command(stubborn, lambda event: None, 60.0)
    thread.submit(command)
    begun.wait()
    assert thread.stuck_s == 0
    thread.give_up(command)
    wait_for(lambda: thread.stuck_s > 0, "stuck engine")
    go_on.set()
    wait_for(lambda: thread.stuck_s == 0, "free engine")


# --- what goes wrong in the engine


@pytest.mark.parametrize(
    ("command", "kind", "message"),
    [
        ("raise", LisaError, "RuntimeError: a fault"),
        ("be speechless", LisaError, "Speechless"),
        ("exit", LisaError, "SystemExit: the engine has had enough"),
        ("refuse", CommandError, "the command cannot be used"),
        ("eat all memory", OutOfMemory, "use a smaller image"),
        ("eat gpu memory", OutOfMemory, "CUDA out of memory"),
        ("wrong answer", LisaError, "returned dict instead of an Answer"),
        ("outside", LisaError, "resize the mask"),
    ],
)
def test_an_error_of_the_engine_arrives_as_it_is(server: Server, command: str, kind: type, message: str) -> None:
    engine = remote(server)
    with pytest.raises(LisaError, match=message) as caught:
        ask(engine, command)
    assert type(caught.value) is kind
    assert ask(engine, "the box").found


def test_what_the_engine_cannot_be_asked_is_refused_before_anything_is_sent(server: Server) -> None:
    answered = server.metric("lisa_command_seconds_count")
    with pytest.raises(CommandError, match="stand-in takes no proposals"):
        ask(remote(server), Ask("x", proposals=Proposals(phrases=("a",))))
    assert server.metric("lisa_command_seconds_count") == answered


def test_a_picture_over_the_servers_limit_is_an_image_error(own) -> None:
    server = own("standin:load", "--max-image-pixels", "10000")
    with pytest.raises(ImageError, match="at most 10000 are taken"):
        ask(remote(server), "the box")


# --- a server that is lost


def test_a_server_killed_during_an_answer_costs_one_command(own) -> None:
    server = own()
    engine = remote(server)
    with pytest.raises(LisaError, match="broke"):
        ask(engine, "slow", on_event=lambda event: isinstance(event, Token) and server.kill())
    with pytest.raises(NotReady, match="cannot be reached"):
        ask(engine, "the box")
    server.start()
    assert ask(engine, "the box").found


def test_an_engine_that_kills_the_server_costs_one_command(own) -> None:
    server = own()
    engine = remote(server)
    # The one retry on a dead connection may find nobody there.
    with pytest.raises(LisaError, match=r"broke|cannot be reached"):
        ask(engine, "kill yourself")
    server.start()
    assert ask(engine, "the box").found


def test_a_server_started_again_between_two_commands_costs_none(own) -> None:
    server = own()
    engine = remote(server)
    encoded = engine.encode(scene())
    for _ in range(3):
        assert engine.ask(encoded, Ask("the box")).found
        server.kill()
        server.start()


def test_a_server_with_another_engine_is_noticed(own) -> None:
    server = own()
    engine = remote(server)
    server.kill()
    server.start("colour_engine:load")
    with pytest.raises(NotReady, match=r"serves 'colours' .* now, and no longer 'stand-in'"):
        ask(engine, "the box")
    server.kill()
    server.start()
    assert ask(engine, "the box").found


def test_a_server_that_hangs_is_given_up_after_its_silence(own) -> None:
    server = own()
    engine = remote(server, silence_s=2)
    begun = time.monotonic()

    def hang(event) -> None:
        if isinstance(event, Token):
            server.process.send_signal(signal.SIGSTOP)

    with pytest.raises(NotReady, match="sent nothing for 2 s"):
        ask(engine, "slow", on_event=hang)
    with pytest.raises(NotReady, match="sent nothing for 2 s"):  # its socket still takes connections
        ask(engine, "the box", seed=5)
    assert time.monotonic() - begun < limit(20)
    server.process.send_signal(signal.SIGCONT)
    wait_for(lambda: server.metric("lisa_running") == 0, "free server")
    assert ask(engine, "the box").found


def test_a_cancel_works_while_the_server_hangs(own) -> None:
    server = own()
    engine = remote(server, silence_s=600)
    stopped = []

    def hang(event) -> None:
        server.process.send_signal(signal.SIGSTOP)
        stopped.append(event)

    with pytest.raises(Cancelled):
        ask(engine, "slow", on_event=hang, should_stop=lambda: bool(stopped))


def test_a_long_silent_answer_is_not_given_up(server: Server) -> None:
    """The server sends a sign of life each second while the engine computes."""
    with_pause = remote(server, silence_s=2)
    assert ask(with_pause, "linger reading, linger decoding", seed=9).found


def test_a_server_that_comes_later_is_waited_for(own, tmp_path: Path, caplog) -> None:
    server = own()
    server.kill()
    coming = threading.Timer(0.5, server.start)
    coming.start()
    try:
        with caplog.at_level(logging.INFO):
            engine = remote(server, wait_s=limit(30))
    finally:
        coming.join()
    assert ask(engine, "the box").found
    assert "waiting up to" in caplog.text
    assert caplog.text.count(f"are sent to {server.url}, unencrypted") == 1


def test_where_nobody_listens_the_url_and_the_remedy_are_named() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(NotReady, match=rf"{url} cannot be reached: .*; start 'lisa serve' there"):
        load_engine(url, options={"wait_s": 0})
    with pytest.raises(NotReady, match="cannot be reached"):
        load_engine("http://no-such-host.invalid:8000", options={"wait_s": 0})


# --- options and URLs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"picture": "gif"}, "option picture is 'gif'; choose one of jpeg, png"),
        ({"jpeg_quality": 0}, "option jpeg_quality is 0"),
        ({"wait_s": "x"}, "option wait_s is 'x'"),
        ({"silence_s": 0.5}, "option silence_s is 0.5; give seconds from 2"),
        ({"ca_file": 3}, "option ca_file is 3"),
        ({"ca_file": "/nowhere.pem"}, "option ca_file is '/nowhere.pem'"),
        ({"family": "lisa"}, "engine 'http' has no option 'family'; its options: ca_file, jpeg_quality"),
    ],
)
def test_a_wrong_option_is_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_engine("http://127.0.0.1:1", options=options)


@pytest.mark.parametrize(
    "url",
    ["http://", "http://:80", "http://box:port", "http://box:99999", "http://box?x=1", "http://box#a", "http://[x"],
)
def test_a_wrong_url_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="http://gpu-box:8000"):
        load_engine(url, options={"wait_s": 0})


def test_a_secret_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="LISA_TOKEN") as caught:
        load_engine("http://user:hunter2@box:80")
    assert "hunter2" not in str(caught.value)


def test_device_and_precision_are_the_servers(server: Server) -> None:
    for given in ({"device": "cuda"}, {"precision": "nf4"}):
        with pytest.raises(ConfigError, match="which the server chooses"):
            load_engine(server.url, **given)


# --- the token


def test_only_who_has_the_token_is_served(own, monkeypatch, caplog) -> None:
    server = own(token=TOKEN)
    for token in ("", "wrong", TOKEN + "x"):
        monkeypatch.setenv("LISA_TOKEN", token)
        with pytest.raises(NotReady, match=r"refuses the token \(HTTP 401\); set the environment variable LISA_TOKEN"):
            remote(server, wait_s=0)
    monkeypatch.setenv("LISA_TOKEN", TOKEN)
    assert ask(remote(server), "the box").found
    for path in ("/hello", "/metrics"):
        assert httpx.get(server.url + path, trust_env=False).status_code == 401
    assert httpx.post(server.url + "/v1/ask", trust_env=False).status_code == 401
    assert httpx.get(server.url + "/health", trust_env=False).status_code == 200  # a load balancer has no token
    assert TOKEN not in server.said() + caplog.text


# --- many at once


def test_eight_robots_are_each_answered_once(server: Server) -> None:
    outcomes: list[str] = []

    def robot(number: int) -> None:
        engine = remote(server)
        for turn in range(6):
            seen: list = []
            stop = stop_after(2, seen) if turn % 3 == 2 else None
            for attempt in itertools.count():
                try:
                    command = "slow" if stop else f"box of {number}"
                    answer = ask(engine, command, number, on_event=seen.append, should_stop=stop)
                    outcomes.append("answered" if answer.found else "empty")
                except Busy:
                    assert attempt < 10_000
                    time.sleep(0.01)
                    continue
                except Cancelled:
                    outcomes.append("canceled")
                break

    robots = [threading.Thread(target=robot, args=[number]) for number in range(8)]
    for thread in robots:
        thread.start()
    for thread in robots:
        thread.join()
    assert sorted(outcomes) == ["answered"] * 32 + ["canceled"] * 16
