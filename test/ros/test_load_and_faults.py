"""The benchmark of load and faults in a short form, its ledger, and what it found."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from machine_speed import limit
from robot import REPOSITORY, scene, stamped
from std_msgs.msg import String

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation
from lisa_ros.runtime.status import Status

BENCHMARKS = REPOSITORY / "benchmarks"
sys.path.append(str(BENCHMARKS))

from ledger import Ledger, Window  # noqa: E402 - found through the line above

SMALL = ["--size", "640x360", "--rate", "15", "--seed", "1"]


@pytest.fixture
def begin():
    """begin(*arguments) -> the benchmark as a process, in a session of its own that is ended with the test."""
    begun = []

    def begin(*arguments):
        command = [sys.executable, str(BENCHMARKS / "load_and_faults.py"), *SMALL, *arguments]
        begun.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return begun[-1]

    yield begin
    for process in begun:
        for left in [process, *others_of(process)]:
            left.kill()
        process.wait()


def others_of(process):
    """Processes of its session."""
    return [p for p in psutil.process_iter() if p.pid != process.pid and session(p.pid) == process.pid]


def session(pid):
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def figures_of(process, output):
    """What the benchmark says last; it leaves nobody behind."""
    assert not others_of(process)
    return json.loads(output.splitlines()[-1])


def test_under_load_every_command_is_answered_once_and_rightly(begin):
    process = begin("--minutes", "0.15")
    output, _ = process.communicate(timeout=limit(300))
    load = figures_of(process, output)["load"]
    assert process.returncode == 0, output
    assert load["commands"] > 25
    assert (load["lost"], load["twice"], load["wrong"], load["failures"]) == (0, 0, 0, [])
    assert set(load["by_endpoint"]) == {"topic", "service", "action"}
    assert load["statuses"]["SUCCESS"] > 10
    assert load["answers_with_objects"] > 0
    assert load["parameter_request_ms"]["requests"] > 40


def test_after_every_fault_the_node_works_again_and_no_command_is_lost(begin):
    process = begin("--minutes", "0", "--faults", "1")
    output, _ = process.communicate(timeout=limit(300))
    figures = figures_of(process, output)
    faults = figures["faults"]
    assert process.returncode == 0, output
    assert (faults["failures"], figures["lost_at_the_end"]) == ([], [])
    assert {kind["times"] for kind in faults["kinds"].values()} == {1}
    assert {"INTERNAL_ERROR", "OUT_OF_MEMORY", "NO_IMAGE", "NOT_READY"} <= set(faults["statuses"])


def test_it_ends_on_ctrl_c_with_the_figures_so_far(begin):
    process = begin("--minutes", "5")
    line = process.stdout.readline()
    assert "the node is up" in line
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=limit(60))
    figures = figures_of(process, output)
    assert figures.get("interrupted") or figures["load"]["interrupted"]


# --- found by it


def test_a_node_that_was_held_up_loses_no_command(client):
    many = 30  # more than ROS's usual queues hold
    os.kill(client.lisa.process.pid, signal.SIGSTOP)
    try:
        for number in range(many):
            client.commands.publish(String(data=f"topic {number}"))
        calls = [client.call_async(f"service {number}") for number in range(many)]
        goals = [client.action.send_goal_async(Segment.Goal(command=f"action {number}")) for number in range(many)]
        client.spin()
    finally:
        os.kill(client.lisa.process.pid, signal.SIGCONT)
    client.wait(lambda: all(reply.done() for reply in calls + goals), "replies")
    client.wait(lambda: sum(r.command.startswith("topic") for r in client.heard["result"]) == many, "results")
    # SUCCESS where the image with which an earlier test saw the node work is still fresh.
    statuses = {call.result().status for call in calls}
    assert statuses <= {Segmentation.SUCCESS, Segmentation.NO_IMAGE, Segmentation.BUSY}
    client.works()


def test_a_subscriber_that_was_held_up_gets_every_answer(client, tmp_path):
    many, size = 80, (480, 640)  # more than Fast DDS's shared memory holds
    truth = np.zeros(size, bool)
    truth[40:440, 100:500] = True
    image = stamped(client.node, scene(size, truth))
    said = tmp_path / "said"
    with said.open("w") as output:
        script = Path(__file__).with_name("slow_listener.py")
        listener = subprocess.Popen([sys.executable, str(script), client.lisa.name], stdout=output)

    def heard():
        return said.read_text().splitlines()

    try:
        client.wait(heard, "listener")
        client.insist(lambda: client.call_async("the box", image), "answer")
        client.wait(lambda: "the box" in heard(), "answer at the listener")
        listener.send_signal(signal.SIGSTOP)
        commands = [f"the box {number}" for number in range(many)]
        for command in commands:
            assert client.call(command, image).status == Segmentation.SUCCESS
        listener.send_signal(signal.SIGCONT)
        client.wait(lambda: heard()[-many:] == commands, "every answer")
    finally:
        listener.kill()
        listener.wait()


# --- the ledger can find something


@pytest.fixture
def ledger():
    ledger = Ledger()
    ledger.asked("the box", "service", 1.0)
    return ledger


def faults(ledger):
    return [text.split(":")[0] for text in ledger.faults(ledger.between(0.0, 100.0))]


def answer(ledger, status=Status.SUCCESS, when=2.0):
    ledger.answered("the box", when, status, "")
    ledger.heard("the box", when, status, "")


def test_a_command_that_is_answered_once_at_both_places_is_in_order(ledger):
    answer(ledger)
    assert faults(ledger) == []
    assert ledger.open() == []
    assert ledger.statuses(ledger.between(0.0, 100.0)) == {"SUCCESS": 1}


def test_an_answer_that_is_missing_at_one_place_is_lost(ledger):
    assert faults(ledger) == ["lost"]
    ledger.heard("the box", 2.0, Status.SUCCESS, "")
    assert faults(ledger) == ["lost"]
    ledger.client_died("the box")
    assert faults(ledger) == []


def test_two_answers_and_two_stories_are_found(ledger):
    answer(ledger)
    ledger.heard("the box", 3.0, Status.CANCELED, "")
    assert faults(ledger) == ["twice", "differs"]


@pytest.mark.parametrize(("when", "found"), [(2.0, []), (4.0, ["wrong status"])])
def test_a_fault_makes_a_status_right_in_its_time_only(ledger, when, found):
    ledger.windows.append(Window(1.5, 3.0, frozenset({Status.NOT_READY})))
    ledger.asked("another box", "topic", when)
    ledger.answered("another box", when + 0.1, Status.NOT_READY, "")
    ledger.heard("another box", when + 0.1, Status.NOT_READY, "")
    answer(ledger)
    assert faults(ledger) == found


def test_an_answer_on_the_topic_may_come_before_its_client_tells_of_the_command():
    ledger = Ledger()
    ledger.heard("the box", 2.0, Status.SUCCESS, "")
    ledger.asked("the box", "topic", 1.0)
    ledger.answered("the box", 2.0, Status.SUCCESS, "")
    assert faults(ledger) == []
