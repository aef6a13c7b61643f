"""``lisa serve --ray`` on this machine: two replicas, cancels, a full queue, a replica that is killed.

Slow, and it needs Ray (requirements/cluster.txt): ``make test-cluster``.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from machine_speed import limit

pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/cluster.txt")
sys.path.append(str(Path(__file__).resolve().parents[1] / "remote"))

from serving import REPOSITORY, TOKEN, Server, wait_for

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask, Conversation
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import Busy, Cancelled, LisaError

ROBOTS, COMMANDS = 8, 50
WAITING = 2
START_S = 300.0


class Cluster(Server):
    """As ``Server``, with two replicas."""

    start_s = START_S
    stop_s = 60.0  # Ray ends its processes one after the other, longer after some were killed

    def healthy(self) -> bool:
        assert self.process.poll() is None, self.said()
        return "serving" in self.said() and self.get("/health").status_code == 200

    @property
    def replicas(self) -> list[psutil.Process]:
        """Processes of the engines."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if child.is_running() and "ServeReplica" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    arguments = ["--ray", "--replicas", "2", "--cpus-per-replica", "0.5", "--waiting", str(WAITING)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LISA_TOKEN", TOKEN)
        cluster = Cluster(tmp_path_factory.mktemp("serve"), "standin:load", *arguments, token=TOKEN)
        try:
            yield cluster
        finally:
            code = cluster.stop()
    assert code == 0, cluster.said()


@pytest.fixture
def engine(cluster: Cluster) -> SupportedEngine:
    return load_engine(cluster.url, options={"wait_s": limit(60)})


def scene(seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 60, (120, 160, 3), np.uint8)
    pixels[30:70, 40:100] = 240
    return pixels


def ask(engine: SupportedEngine, command: str, seed: int = 0, **options):
    return engine.ask(engine.encode(scene(seed)), Ask(command), **options)


def patiently(work: Callable[[], object]) -> object:
    """The result of ``work``, tried again while the cluster is BUSY."""
    while True:
        try:
            return work()
        except Busy:
            time.sleep(0.02)


def test_two_replicas_work_at_once(cluster: Cluster, engine: SupportedEngine) -> None:
    """Each answers one command at a time, so two that overlap are on two replicas."""
    assert len(cluster.replicas) == 2
    spoken = [threading.Event(), threading.Event()]

    def robot(number: int) -> None:
        """Goes on until the other robot's command has begun, too."""
        mine = load_engine(cluster.url)
        both = lambda: all(event.is_set() for event in spoken)  # noqa: E731
        with pytest.raises(Cancelled):
            ask(mine, "slow", number, on_event=lambda event: spoken[number].set(), should_stop=both)

    robots = [threading.Thread(target=robot, args=[number]) for number in range(2)]
    for thread in robots:
        thread.start()
    for thread in robots:
        thread.join()
    assert all(event.is_set() for event in spoken)


def test_a_conversation_goes_on_at_any_replica(engine: SupportedEngine) -> None:
    history, encoded = Conversation(), engine.encode(scene(3))
    texts = [patiently(lambda: engine.ask(encoded, Ask("the box", history=history))).text for _ in range(6)]
    assert [f"turn {turn}" in text for turn, text in enumerate(texts)] == [True] * 6


def test_a_full_cluster_is_busy_and_a_cancel_frees_it(cluster: Cluster) -> None:
    stop, outcomes = threading.Event(), Counter()

    def robot(number: int) -> None:
        try:
            ask(load_engine(cluster.url), "slow", number, should_stop=stop.is_set)
        except (Busy, Cancelled) as error:
            outcomes[type(error).__name__] += 1

    robots = [threading.Thread(target=robot, args=[number]) for number in range(4 * (1 + WAITING))]
    for thread in robots:
        thread.start()
    try:
        wait_for(lambda: outcomes["Busy"] >= len(robots) - 2 * (1 + WAITING), "BUSY")
    finally:
        stop.set()
        for thread in robots:
            thread.join()
    assert set(outcomes) <= {"Busy", "Cancelled"}
    assert outcomes.total() == len(robots)
    engine = load_engine(cluster.url)
    assert patiently(lambda: ask(engine, "the box")).found


def test_a_killed_replica_costs_its_commands_only_and_comes_back(cluster: Cluster, engine: SupportedEngine) -> None:
    victim = wait_for(lambda: len(cluster.replicas) == 2 and cluster.replicas[0], "two replicas")
    victim.kill()
    failed = 0
    for number in range(20):
        try:
            assert patiently(lambda number=number: ask(engine, "the box", number)).found
        except LisaError:
            failed += 1
    assert failed <= 1  # asked before the death was noticed
    wait_for(lambda: len(cluster.replicas) == 2, "new replica", START_S)


@pytest.mark.timeout(900)
def test_eight_robots_are_answered_exactly_once_while_a_replica_is_killed(cluster: Cluster) -> None:
    """8 robots x 50 commands with cancels: none lost, none twice; a killed replica costs at most what it had."""
    wait_for(lambda: len(cluster.replicas) == 2, "two replicas", START_S)
    outcomes: list[tuple[int, int, str]] = []

    def robot(number: int) -> None:
        engine = load_engine(cluster.url, options={"wait_s": limit(30)})
        encoded = engine.encode(scene(number))
        for turn in range(COMMANDS):
            seen: list = []
            cancel = turn % 5 == 4
            stop = (lambda seen=seen: len(seen) >= 2) if cancel else None
            question = Ask("slow" if cancel else f"box {turn}")
            try:
                answer = patiently(lambda: engine.ask(encoded, question, seen.append, stop))  # noqa: B023 - at once
                outcome = "answered" if answer.found else "empty"
            except Cancelled:
                outcome = "canceled"
            except LisaError as error:
                outcome = f"failed: {error}"
            outcomes.append((number, turn, outcome))

    robots = [threading.Thread(target=robot, args=[number]) for number in range(ROBOTS)]
    for thread in robots:
        thread.start()
    wait_for(lambda: len(outcomes) > ROBOTS * COMMANDS // 4, "first quarter", START_S)
    cluster.replicas[0].kill()
    for thread in robots:
        thread.join()
    assert Counter((robot, turn) for robot, turn, _ in outcomes) == Counter(
        (robot, turn) for robot in range(ROBOTS) for turn in range(COMMANDS)
    )
    counts = Counter(re.sub(":.*", "", outcome) for _, _, outcome in outcomes)
    assert counts["empty"] == 0
    assert counts["failed"] <= ROBOTS, outcomes  # of each robot the one command that the replica had, at most
    assert counts["answered"] + counts["canceled"] + counts["failed"] == ROBOTS * COMMANDS


def test_a_model_that_cannot_be_loaded_is_named() -> None:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'test'}"}
    command = [sys.executable, "-m", "lisa_ros.cli", "serve", "--ray", "--port", "8799", "--model", "standin:load"]
    done = subprocess.run(
        [*command, "--option", "loading=missing"], env=environment, capture_output=True, text=True, timeout=limit(300)
    )
    assert done.returncode == 1
    assert "does not exist; give a folder with config.json and the weights" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--replicas", "3", "--max-replicas", "2"], "--max-replicas 2 is less than --replicas 3"),
        (["--port", "0"], "--port 0: with --ray, give a number from 1"),
        (["--replicas", "0"], "'0' is not a whole number from 1 up"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(arguments: list[str], message: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'test'}"}
    command = [sys.executable, "-m", "lisa_ros.cli", "serve", "--ray", "--model", "standin:load", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit(60))
    assert done.returncode in (1, 2)
    assert message in done.stderr
