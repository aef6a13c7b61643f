"""Time limits grow with the slowness of the machine, and what hangs still fails."""

import os
import time

import machine_speed
import psutil
import pytest
from busy_machine import busy
from machine_speed import Deadline, limit, slowness_of


@pytest.fixture
def quiet_since(monkeypatch):
    """quiet_since(then, now) sets the slowness at the start of the run, and what a measurement gives from now on."""

    def set_slowness(then: float, now: float) -> None:
        monkeypatch.setenv(machine_speed.VARIABLE, str(then))
        monkeypatch.setattr(Deadline, "_slowness_later", 1.0)
        monkeypatch.setattr(machine_speed, "measure_s", lambda: now * machine_speed.QUIET_S)

    return set_slowness


def seconds_until_passed(quiet_s: float) -> float:
    deadline, begun = Deadline(quiet_s), time.monotonic()
    while not deadline.passed():
        time.sleep(0.005)
    return time.monotonic() - begun


def test_the_measure_takes_longer_beside_busy_processes():
    quiet_s = min(machine_speed.measure_s() for _ in range(2))
    with busy(6 * (os.cpu_count() or 1)):
        assert max(machine_speed.measure_s() for _ in range(2)) > 1.3 * quiet_s


def test_busy_processes_end_with_their_block():
    with busy(2) as processes:
        running = [psutil.Process(process.pid) for process in processes]
        assert all(process.is_running() for process in running)
    assert not any(process.is_running() for process in running)


@pytest.mark.parametrize(("quiets", "factor"), [(0.1, 1.0), (1.0, 1.0), (2.5, 2.5), (1000.0, 10.0)])
def test_the_slowness_is_at_least_1_and_at_most_10(quiets, factor):
    assert slowness_of(quiets * machine_speed.QUIET_S) == pytest.approx(factor)


def test_a_limit_grows_with_the_slowness(quiet_since):
    quiet_since(4.0, 4.0)
    assert limit(30) == 120


@pytest.mark.parametrize(("then", "now"), [(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)])
def test_a_wait_ends_after_the_limit_of_the_slower_time(quiet_since, then, now):
    quiet_since(then, now)
    assert seconds_until_passed(0.1) >= 0.1 * max(then, now)


def test_the_slowness_is_measured_once_and_for_child_processes_too(monkeypatch):
    measured = []
    monkeypatch.setattr(machine_speed, "measure_s", lambda: measured.append(1) or 2 * machine_speed.QUIET_S)
    monkeypatch.delenv(machine_speed.VARIABLE)
    assert [machine_speed.settle(), machine_speed.settle(), machine_speed.slowness()] == [2.0] * 3
    assert (len(measured), os.environ[machine_speed.VARIABLE]) == (1, "2.00")
