"""``lisa serve``, and the verbs that use a server, each as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machine_speed import limit
from PIL import Image
from recordings import header, raw, record
from recordings import picture as frame_picture
from serving import REPOSITORY, TOKEN, Server, free_port, wait_for
from test_hostile_servers import certificate
from torchless import ABSENT, without_torch

from lisa_ros import load_engine
from lisa_ros.bag import messages
from lisa_ros.engine.api import Ask
from lisa_ros.remote import wire
from lisa_ros.remote.commands import Limits
from lisa_ros.remote.server import make_app

RED = (220, 40, 40)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("serve"), "colour_engine:load", token=TOKEN)
    yield server
    assert server.stop() == 0, server.said()


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lisa_ros.cli", *arguments]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "examples")])}
    return subprocess.run(command, env=environment or given, capture_output=True, text=True, timeout=limit(60))


def picture(folder: Path) -> Path:
    pixels = np.full((120, 160, 3), 30, np.uint8)
    pixels[30:70, 40:100] = RED
    Image.fromarray(pixels).save(folder / "a.png")
    return folder / "a.png"


# --- a robot without torch


@pytest.fixture
def robot(tmp_path: Path, server: Server) -> dict[str, str]:
    """The environment of a process without torch that knows the token."""
    (tmp_path / "site").mkdir()
    return {**without_torch(tmp_path / "site", REPOSITORY), "LISA_TOKEN": server.token}


def test_torch_is_absent_there(robot: dict[str, str]) -> None:
    script = f"from importlib.util import find_spec; print([find_spec(name) for name in {ABSENT}])"
    done = subprocess.run([sys.executable, "-c", script], env=robot, capture_output=True, text=True, check=True)
    assert done.stdout.split() == str([None] * len(ABSENT)).split()
    done = run("inspect", str(REPOSITORY / "test/golden/ckpt"), environment=robot)
    assert "is missing" in done.stderr


def test_lisa_segment_needs_no_torch(robot: dict[str, str], server: Server, tmp_path: Path) -> None:
    outputs = ["--json", str(tmp_path / "out.json"), "--out", str(tmp_path / "out.png")]
    done = run("segment", str(picture(tmp_path)), "the red thing", "--model", server.url, *outputs, environment=robot)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["model"] == "colours"
    done = run("segment", str(picture(tmp_path)), "--target", "blue", "--model", server.url, environment=robot)
    assert done.returncode == 3
    assert "not there: blue" in done.stdout


def test_lisa_evaluate_needs_no_torch_and_workers_change_the_times_only(
    robot: dict[str, str], server: Server, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    pixels = np.asarray(Image.open(picture(tmp_path)))
    for number in range(9):
        Image.fromarray(np.roll(pixels, 3 * number, axis=1)).save(data / f"{number}.jpg", quality=95)
        left = 40 + (3 if number % 2 else 2) * number
        shape = {"label": "target", "points": [[left, 30], [left + 59, 30], [left + 59, 69], [left, 69]]}
        content = {"text": ["the red thing"], "is_sentence": False, "shapes": [shape]}
        (data / f"{number}.json").write_text(json.dumps(content))
    reports = []
    for workers in ("1", "4"):
        outputs = ["--json", str(tmp_path / "r.json"), "--html", str(tmp_path / f"{workers}.html")]
        arguments = ["--data", str(data), "--model", server.url, "--workers", workers, *outputs]
        done = run("evaluate", *arguments, environment=robot)
        assert done.returncode == 0, done.stderr
        reports.append(json.loads((tmp_path / "r.json").read_text()))
        for times in ("time_to_mask_s", "next_command_s"):
            del reports[-1][times]
    assert reports[0]["gIoU"] > 0.7
    assert reports[0] == reports[1]
    assert (tmp_path / "1.html").read_text() == (tmp_path / "4.html").read_text()


def test_workers_are_for_a_server() -> None:
    for verb in (["evaluate", "--data", "/nowhere"], ["bag", "in.mcap", "--command", "x", "--out", "out.mcap"]):
        done = run(*verb, "--workers", "2", "--model", "colour_engine:load")
        assert "--workers 2 is for a server with replicas; give its URL with --model" in done.stderr


def test_lisa_bag_needs_no_torch_and_workers_write_the_same_bytes(
    robot: dict[str, str], server: Server, tmp_path: Path
) -> None:
    """The red box of the frames moves; each part of 0.5 s is asked about and tracked."""
    red = [np.dstack([frame_picture(number)[..., 0], *np.full((2, 120, 160), 20, np.uint8)]) for number in range(23)]
    frames = [messages.image(header(number), pixels, "rgb8") for number, pixels in enumerate(red)]
    record(tmp_path / "in", {"/image": frames})
    written = []
    for workers in ("1", "3"):
        out = tmp_path / workers / "out.mcap"
        out.parent.mkdir()
        arguments = ["--command", "the red thing", "--every", "0.5", "--model", server.url, "--workers", workers]
        done = run("bag", str(tmp_path / "in"), *arguments, "--out", str(out), environment=robot)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("This is the red thing") == 5
        assert f"wrote {out}: 23 frames" in done.stdout
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_a_worker_that_fails_ends_the_run_and_the_next_one_continues(
    robot: dict[str, str], server: Server, tmp_path: Path
) -> None:
    lost = Server(tmp_path, "standin:load", "--timeout-s", "0.3", token=TOKEN)
    record(tmp_path / "in", {"/image": [raw(number) for number in range(12)]})
    arguments = ["bag", str(tmp_path / "in"), "--command", "slow", "--every", "0.3", "--out", str(tmp_path / "o.mcap")]
    arguments += ["--model", lost.url, "--workers", "2"]
    try:
        done = run(*arguments, environment=robot)
        assert (done.returncode, done.stderr.splitlines()[-1][:5]) == (1, "lisa:")
        assert "more than 0.3 s" in done.stderr
        lost.kill()
        lost.start()
        assert run(*arguments, environment=robot).returncode == 0
    finally:
        lost.stop()


# --- the verb


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "lets others reach the server; set LISA_TOKEN to a secret, here and for every client"),
        (["--port", "99999"], "--port 99999: "),
        (["--host", "no-such-host.invalid", "--no-token"], "--host no-such-host.invalid"),
        (["--tls-cert", "/nowhere"], "--tls-cert /nowhere: there is no such file"),
        (["--waiting", "-1"], "--waiting -1: give a number from 0"),
        (["--timeout-s", "nan"], "--timeout-s nan"),
        (["--kept-frames", "-1"], "--kept-frames -1"),
        (["--max-image-pixels", "0"], "--max-image-pixels 0"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(arguments: list[str], message: str) -> None:
    done = run("serve", "--model", "colour_engine:load", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_named_before_the_model_is_loaded() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--model", "/no/such/model", "--port", str(taken.getsockname()[1]))
    assert "Address already in use; choose another address or port" in done.stderr


def test_a_token_with_blanks_is_refused() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "LISA_TOKEN": "two words"}
    assert "LISA_TOKEN has blanks" in run("serve", environment=environment).stderr


def test_https_with_the_servers_own_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate(tmp_path, "localhost")
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'examples'}", "LISA_TOKEN": TOKEN}
    command = [sys.executable, "-m", "lisa_ros.cli", "serve", "--model", "colour_engine:load", "--port", str(port)]
    command += ["--tls-cert", str(cert), "--tls-key", str(key)]
    monkeypatch.setenv("LISA_TOKEN", TOKEN)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == f"serving colours at https://127.0.0.1:{port}\n"
            url = f"https://localhost:{port}"
            engine = load_engine(url, options={"ca_file": str(cert), "wait_s": 30})
            pixels = np.asarray(Image.open(picture(tmp_path)))
            assert engine.ask(engine.encode(pixels), Ask("the red thing")).found
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode == 0


# --- requests of any kind


@pytest.fixture(scope="module")
def small() -> Iterator[str]:
    """URL of a server in this process with small limits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "examples")
        engine = load_engine("colour_engine:load")
    app = make_app(engine, Limits(max_request_bytes=2000, upload_s=0.3))
    server = uvicorn.Server(uvicorn.Config(app, port=free_port(), log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_for(lambda: server.started, "server")
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


def post(url: str, body: bytes) -> httpx.Response:
    return httpx.post(f"{url}/v1/ask", content=body, trust_env=False)


@given(st.binary(max_size=300))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_refused_in_one_line(small: str, body: bytes) -> None:
    response = post(small, body)
    assert response.status_code == 400
    assert "\n" not in response.json()["message"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"asks": []}, "there is no command"),
        ({"asks": [3]}, "a command is a int"),
        ({"digest": b"x"}, "the picture has another digest"),
        ({"details": 1}, "details is a int"),
        ({"answers": ["a", "b"]}, "2 answers for 1 commands"),
        ({"asks": [wire.ask_message(Ask("a\x1b"))]}, "control character U+001B"),
        ({"asks": [wire.ask_message(Ask(" "))]}, "the command is empty"),
        ({"asks": [wire.ask_message(Ask("a", points=[(1, 1)]))]}, "colours takes no points"),
        ({"asks": [wire.ask_message(Ask("a", max_new_tokens=0))]}, "max_new_tokens is 0"),
    ],
)
def test_a_request_that_cannot_be_used_is_named(small: str, change: dict, message: str) -> None:
    request = {"asks": [wire.ask_message(Ask("x"))], "answers": None, "details": False, "digest": b"", "picture": b"x"}
    response = post(small, wire.pack(request | change))
    assert (response.status_code, response.json()["error"]) == (400, "CommandError")
    assert message in response.json()["message"]


def test_a_request_that_is_too_large_is_cut_off(small: str) -> None:
    response = post(small, bytes(3000))
    assert response.status_code == 413
    assert "more than 2000 bytes" in response.json()["message"]


def test_a_request_that_does_not_end_is_given_up(small: str) -> None:
    host, port = small.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /v1/ask HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        assert half.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_client_that_is_gone_before_its_request_is_there_does_no_harm(small: str) -> None:
    host, port = small.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as half:
        half.sendall(b"POST /v1/ask HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    assert httpx.get(f"{small}/health", trust_env=False).json() == {"status": "ok", "waiting": 0}


def test_other_paths_and_methods_are_refused(small: str) -> None:
    assert httpx.get(f"{small}/v1/ask", trust_env=False).status_code == 405
    assert httpx.get(f"{small}/v2/ask", trust_env=False).status_code == 404
