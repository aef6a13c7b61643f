"""``--workers ray`` and ``ray://``: the work of one command spread over Ray, and the result of one machine.

Slow, and it needs Ray (requirements/cluster.txt): ``make test-cluster``.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from machine_speed import limit
from PIL import Image

pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/cluster.txt")
pytest.importorskip("rosbags", reason="lisa bag needs rosbags: pip install 'lisa_ros[bag]'")
sys.path.append(str(Path(__file__).resolve().parents[1] / "remote"))

from recordings import header, picture, raw, record
from serving import REPOSITORY, wait_for

from lisa_ros.bag import messages

PICTURES, FRAMES = 12, 23
START_S = 300.0
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "test", REPOSITORY / "examples"))),
    # Ray's client server forks while gRPC's threads run; with its fork handlers gRPC aborts the child now and then
    # ("ev_epoll1_linux.cc: Check failed: next_worker->state == KICKED").
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}


def lisa(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "lisa_ros.cli", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(lisa(*arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=limit(START_S))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A home folder with a token, so that the cluster asks for it."""
    folder = tmp_path_factory.mktemp("home")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    ENVIRONMENT["HOME"] = str(folder)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of its own, with room for two tasks."""
    port, client_port = free_ports(2)
    command = [Path(sys.executable).parent / "ray", "start", "--head", "--block", "--num-cpus", "2", "--port", port]
    command += ["--ray-client-server-port", client_port]
    command += ["--include-dashboard", "false", "--disable-usage-stats"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stdout=output, stderr=output)
    try:
        wait_for(lambda: _listens(client_port) or process.poll() is not None, "cluster of Ray", START_S)
        assert process.poll() is None, log.read_text()
        yield f"ray://127.0.0.1:{client_port}"
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(family, limit(30))
        for one in alive:
            one.kill()


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ReasonSeg's pairs: a red box, and its truth, a little beside it."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(PICTURES):
        rgb = np.full((120, 160, 3), 20, np.uint8)
        rgb[30:70, 40 + number : 100] = (220, 20, 20)
        Image.fromarray(rgb).save(folder / f"{number:02}.jpg", quality=95)
        shape = {"label": "target", "points": [[40, 30], [99, 30], [99, 69], [40, 69]]}
        content = {"text": ["the red thing"], "is_sentence": False, "shapes": [shape]}
        (folder / f"{number:02}.json").write_text(json.dumps(content))
    return folder


def red(number: int):
    """A frame with a red box that moves."""
    pixels = np.dstack([picture(number)[..., 0], *np.full((2, 120, 160), 20, np.uint8)])
    return messages.image(header(number), pixels, "rgb8")


def report(file: Path) -> dict:
    """Without the times."""
    content = json.loads(file.read_text())
    return {name: value for name, value in content.items() if not name.endswith("_s")}


def evaluate(data: Path, file: Path, *more: str) -> list[str | Path]:
    return ["evaluate", "--data", data, "--model", "colour_engine:load", "--json", file, *more]


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The report of one machine."""
    file = tmp_path_factory.mktemp("alone") / "report.json"
    done = run(*evaluate(data, file))
    assert done.returncode == 0, done.stderr
    assert report(file)["gIoU"] > 0.7
    return report(file)


def test_a_cluster_gives_the_report_of_one_machine(cluster: str, data: Path, alone: dict, tmp_path: Path) -> None:
    done = run(*evaluate(data, tmp_path / "report.json", "--workers", cluster))
    assert done.returncode == 0, done.stderr
    assert "Ray: 2 at once" in done.stderr
    assert report(tmp_path / "report.json") == alone


def test_a_page_of_examples_is_that_of_one_machine(cluster: str, data: Path, tmp_path: Path) -> None:
    pages = []
    for name, workers in (("one", []), ("cluster", ["--workers", cluster])):
        page = tmp_path / f"{name}.html"
        done = run("evaluate", "--data", data, "--model", "colour_engine:load", "--html", page, *workers)
        assert done.returncode == 0, done.stderr
        pages.append(page.read_text())
    assert pages[0] == pages[1]


def test_a_killed_run_goes_on_where_it_was(cluster: str, data: Path, alone: dict, tmp_path: Path) -> None:
    file, journal = tmp_path / "report.json", tmp_path / ".unfinished-report.jsonl"
    arguments = evaluate(data, file, "--workers", cluster)
    process = subprocess.Popen(lisa(*arguments), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    wait_for(lambda: journal.exists() and journal.read_text().count("\n") > 2, "first pictures", START_S)
    process.kill()
    process.wait()
    assert not file.exists()
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "continues at picture" in done.stdout
    assert report(file) == alone


def test_a_recording_is_the_same_file(cluster: str, tmp_path: Path) -> None:
    source = record(tmp_path / "in", {"/image": [red(number) for number in range(FRAMES)]})
    written = []
    for name, workers in (("one", []), ("cluster", ["--workers", cluster])):
        (tmp_path / name).mkdir()
        out = tmp_path / name / "out.mcap"
        arguments = ["--command", "the red thing", "--every", "0.5", "--model", "colour_engine:load", *workers]
        done = run("bag", source, *arguments, "--out", out)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("This is the red thing") == 5
        assert f"annotated {FRAMES} frames, 2.2 s of recording" in done.stdout
        written.append(out.read_bytes())
    assert written[0] == written[1]


def test_a_folder_of_recordings_on_this_machine_without_a_cluster(tmp_path: Path) -> None:
    """Parts of all recordings run at once; a run that was killed goes on."""
    day, out, alone = tmp_path / "day", tmp_path / "out", tmp_path / "alone"
    day.mkdir()
    for name in ("a", "b", "c"):
        record(day / name, {"/image": [red(number) for number in range(FRAMES)]})
    given = ["bag", day, "--command", "the red thing", "--every", "0.3", "--model", "colour_engine:load"]
    process = subprocess.Popen(
        lisa(*given, "--out", out, "--workers", "ray"),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: any(out.glob(".unfinished-a/0*.mcap")), "first part", START_S)
    process.kill()
    process.wait()
    done = run(*given, "--out", out, "--workers", "ray")
    assert done.returncode == 0, done.stderr
    assert run(*given, "--out", alone).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "c"]
    for name in ("a", "b", "c"):
        assert (out / name / f"{name}.mcap").read_bytes() == (alone / name / f"{name}.mcap").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "loading=missing"], "does not exist; give a folder with config.json and the weights"),
        (["--every", "0"], "--every 0 makes one part of a recording; with --workers ray, give seconds"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    cluster: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    source = record(tmp_path / "in", {"/image": [raw(0), raw(1)]})
    given = ["--command", "the box", "--out", tmp_path / "o.mcap", "--workers", cluster, "--model", "standin:load"]
    done = run("bag", source, *given, *arguments)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]


def test_a_cluster_that_is_not_there_is_named(data: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    done = run(*evaluate(data, tmp_path / "r.json", "--workers", f"ray://127.0.0.1:{port}"))
    assert done.returncode == 1
    assert f"--workers ray://127.0.0.1:{port}:" in done.stderr.splitlines()[-1]
