"""Workers that die, memory that runs out, callers that stop: every command gets its one answer, and the next works."""

import itertools
import os
import re
import signal
import time

import psutil
import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from machine_speed import limit
from robot import Client, scene, stamped, wait_for
from std_msgs.msg import String

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation, Status

SLOW_RED = 7  # standin.SLOW_RED


def own_image(client, slow_to_encode=False):
    pixels = scene()
    if slow_to_encode:
        pixels[0, 0, 0] = SLOW_RED
        pixels[0, 1] = next(_noise)  # never the frame of another test, which would be kept encoded
    return stamped(client.node, pixels)


def error_lines(client, text):
    return [line for line in client.lisa.said().splitlines() if "[ERROR]" in line and text in line]


_noise = itertools.count(1)


# --- death


def test_a_worker_killed_in_the_middle_of_a_command_costs_that_command_only(client):
    goal = client.goal("slow box", own_image(client))
    goal.reach(Segment.Feedback.STAGE_GENERATING)
    client.heard["status"].clear()
    killed = client.lisa.worker
    killed.kill()
    status, result = goal.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Segmentation.INTERNAL_ERROR)
    assert "SIGKILL" in result.message
    assert client.call("the box", own_image(client)).status == Segmentation.NOT_READY
    client.works()
    states = [s.state for s in client.heard["status"] if s.state in (Status.RESTARTING, Status.LOADING)]
    assert all(s.progress == 0.0 for s in client.heard["status"] if s.state == Status.RESTARTING)
    assert states[:2] == [Status.RESTARTING, Status.LOADING]
    assert client.lisa.worker.pid != killed.pid
    assert client.heard_result(goal.request_id).status == Segmentation.INTERNAL_ERROR


@pytest.mark.parametrize("how", ["segfault", "kill yourself"])
def test_a_worker_that_crashes_is_started_again(client, how):
    answer = client.call(how, own_image(client))
    assert answer.status == Segmentation.INTERNAL_ERROR
    assert "SIG" in answer.message
    client.works()


def test_a_worker_killed_while_idle_is_started_again(client):
    client.lisa.worker.kill()
    client.state(Status.RESTARTING, "restart")
    client.works()


def test_commands_waiting_behind_one_that_killed_the_worker_are_answered(client):
    waiting = [client.call_async(command, own_image(client)) for command in ("slow box", "the box", "another box")]
    client.state(Status.BUSY, "busy node")
    client.wait(lambda: client.heard["status"][-1].queued == 2, "queue")
    client.lisa.worker.kill()
    statuses = [client.done(answer).status for answer in waiting]
    assert statuses == [Segmentation.INTERNAL_ERROR, Segmentation.NOT_READY, Segmentation.NOT_READY]
    client.works()


def test_pauses_between_restarts_grow_and_come_to_an_end(launch):
    client = launch(options="[loading=mortal]", restart_pause_s="0.02")
    status = client.state(Status.ERROR, "end of trying")
    assert "5 times" in status.message
    assert re.findall(r"it is started again in (\S+) s", client.lisa.said()) == ["0.02", "0.04", "0.08", "0.16"]
    assert client.call("the box", own_image(client)).status == Segmentation.NOT_READY
    assert not psutil.Process(client.lisa.process.pid).children()


def test_a_worker_does_not_outlive_its_node(launch):
    client = launch()
    client.ready()
    worker = client.lisa.worker
    client.lisa.process.kill()
    assert wait_for(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, "end of the worker")


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_the_node_stops_when_told_even_in_the_middle_of_a_command(launch, told):
    client = launch()
    client.ready()
    client.goal("hang", own_image(client)).reach(Segment.Feedback.STAGE_READING)
    worker = client.lisa.worker
    client.lisa.process.send_signal(told)
    assert client.lisa.process.wait(limit(20)) == 0
    assert wait_for(lambda: not worker.is_running(), "end of the worker")
    assert "Traceback" not in client.lisa.said()


# --- memory and faults


@pytest.mark.parametrize("command", ["eat all memory", "eat python memory"])
def test_out_of_memory_is_said_and_survived(client, command):
    worker = client.lisa.worker
    answer = client.call(command, own_image(client))
    assert answer.status == Segmentation.OUT_OF_MEMORY
    assert "smaller image" in answer.message
    client.works()
    assert client.lisa.worker.pid == worker.pid


def test_a_fault_of_the_model_is_an_internal_error_with_its_traceback_in_the_log(client):
    worker = client.lisa.worker
    answer = client.call("raise", own_image(client))
    assert (answer.status, "RuntimeError: a fault" in answer.message) == (Segmentation.INTERNAL_ERROR, True)
    assert "standin.py" in client.lisa.said()
    client.works()
    assert client.lisa.worker.pid == worker.pid


def test_what_the_model_refuses_is_an_invalid_command(client):
    assert client.call("refuse", own_image(client)).status == Segmentation.INVALID_COMMAND
    client.works()


# --- cancel


LINGERING = {  # a command that stays at the stage for a while
    "queued": "the box",
    "encoding": "the box",
    "reading": "linger reading",
    "generating": "slow box",
    "decoding": "linger decoding",
}


def at_stage(client, stage, **fields):
    """A goal that has come to ``stage``, and the goal ahead of it where it has to wait for one."""
    ahead = client.goal("slow box", own_image(client)) if stage == "queued" else None
    goal = client.goal(LINGERING[stage], own_image(client, slow_to_encode=stage == "encoding"), **fields)
    goal.reach(getattr(Segment.Feedback, f"STAGE_{stage.upper()}"))
    return goal, ahead


@pytest.mark.parametrize("stage", LINGERING)
def test_cancel_at_every_stage(client, stage):
    goal, ahead = at_stage(client, stage)
    goal.cancel()
    status, result = goal.result()
    assert (status, result.status) == (GoalStatus.STATUS_CANCELED, Segmentation.CANCELED)
    assert client.heard_result(goal.request_id).status == Segmentation.CANCELED
    assert ahead is None or ahead.result()[1].status == Segmentation.SUCCESS
    client.works()


def test_cancel_after_the_answer_changes_nothing(client):
    goal = client.goal("the box", own_image(client))
    status, result = goal.result()
    goal.cancel()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, Segmentation.SUCCESS)
    assert client.heard_result(goal.request_id).status == Segmentation.SUCCESS
    client.works()


# --- timeout

# Ends while a lingering command is at its stage, on a slow machine too: the stand-in lingers longer there.
SHORT_S = round(limit(0.3), 1)


def duration(seconds):
    whole = int(seconds)
    return Duration(sec=whole, nanosec=round((seconds - whole) * 1e9))


@pytest.mark.parametrize("stage", LINGERING)
def test_timeout_at_every_stage(client, stage):
    goal, ahead = at_stage(client, stage, timeout=duration(SHORT_S))
    status, result = goal.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Segmentation.TIMEOUT)
    assert f"{SHORT_S:g} s" in result.message
    assert stage in result.message
    assert client.heard_result(goal.request_id).status == Segmentation.TIMEOUT
    assert ahead is None or ahead.result()[1].status == Segmentation.SUCCESS
    client.works()


def test_the_nodes_own_limit_holds_where_the_caller_gives_none(launch):
    client = launch(timeout_s=limit(0.4))
    client.ready()
    assert client.call("slow box", own_image(client)).status == Segmentation.TIMEOUT
    client.works()


def test_a_worker_that_does_not_stop_is_killed(launch):
    client = launch(timeout_s=SHORT_S, stuck_worker_s=SHORT_S)
    client.ready()
    worker = client.lisa.worker
    assert client.call("hang", own_image(client)).status == Segmentation.TIMEOUT
    client.wait(lambda: not worker.is_running(), "end of the stuck worker")
    client.state(Status.READY, "new worker")
    client.works()


# --- several at once


def test_commands_beyond_the_queue_are_busy_at_once_and_all_are_answered_once(client):
    image = own_image(client)
    asked = [client.call_async(f"slow box {i}", image) for i in range(2)]
    asked += [client.goal(f"the box {i}", image).result_future for i in range(2)]
    client.wait(lambda: client.heard["status"][-1].queued == 3, "queue")
    client.show(scene())
    client.commands.publish(String(data="the topic's box"))
    client.wait(lambda: client.heard["status"][-1].queued == 4, "full queue")
    before = time.monotonic()
    refused = client.call("one too many", image)
    assert refused.status == Segmentation.BUSY
    assert "4 are waiting" in refused.message
    assert time.monotonic() - before < limit(1.0)
    assert not any(answer.done() for answer in asked)
    client.wait(lambda: len(client.heard["result"]) == 6, "six answers")
    client.wait(lambda: all(answer.done() for answer in asked), "replies")
    ids = [r.request_id for r in client.heard["result"]]
    assert len(set(ids)) == 6
    statuses = [r.status for r in client.heard["result"]]
    assert sorted(statuses) == [Segmentation.SUCCESS] * 5 + [Segmentation.BUSY]
    client.works()


def test_a_client_that_goes_away_does_not_take_the_node_along(client, context):
    other = Client(context, client.lisa)
    other.ready()
    other.goal("slow box", own_image(other))
    other.call_async("the box", own_image(other))
    other.spin(0.1)
    other.close()
    client.works()


# --- checkpoints that cannot be loaded


@pytest.mark.parametrize(
    ("loading", "says"),
    [("missing", "does not exist"), ("huge", "out of memory")],
)
def test_a_model_that_cannot_be_loaded_is_an_error_state_not_a_restart_storm(launch, loading, says):
    client = launch(options=f"[loading={loading}]")
    status = client.state(Status.ERROR, "error state")
    assert says in status.message
    [line] = client.wait(lambda: error_lines(client, "the model cannot be loaded"), "line on the console")
    assert says in line
    assert client.lisa.said().count("the model cannot be loaded") == 1  # said once
    # What is the user's to mend is said in a line, what is ours is found by its traceback.
    assert ("standin.py" in client.lisa.said()) == (loading == "huge")
    client.wait(client.service.service_is_ready, "service")
    answer = client.call("the box", own_image(client))
    assert (answer.status, says in answer.message) == (Segmentation.NOT_READY, True)
    assert not any(s.state == Status.RESTARTING for s in client.heard["status"])
    assert wait_for(lambda: not psutil.Process(client.lisa.process.pid).children(), "end of the worker")


def test_a_model_that_is_ready_is_named_on_the_console(client):
    client.wait(lambda: "ready: stand-in on cpu in fp32, loaded in" in client.lisa.said(), "line on the console")


def test_a_worker_that_is_stopped_by_a_person_is_noticed_by_the_limit_not_for_ever(client):
    worker = client.lisa.worker
    os.kill(worker.pid, signal.SIGSTOP)
    goal = client.goal("the box", own_image(client), timeout=duration(SHORT_S))
    assert goal.result()[1].status == Segmentation.TIMEOUT
    os.kill(worker.pid, signal.SIGCONT)
    client.works()
