"""The node with an engine on another computer (``lisa serve``), and without torch on its own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Duration
from robot import REPOSITORY, TRUTH, Client, NodeProcess, pixels_of, scene, stamped, wait_for

sys.path.append(str(REPOSITORY / "test/remote"))

from serving import TOKEN, Server
from torchless import without_torch

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask
from lisa_ros.errors import Cancelled
from lisa_ros.msg import Segmentation, Status


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("serve"), token=TOKEN)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory, context, server: Server) -> Iterator[Client]:
    """A node in whose environment torch is not installed."""
    folder = tmp_path_factory.mktemp("node")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**without_torch(folder), "LISA_TOKEN": TOKEN}.items():
            patch.setenv(name, value)
        process = NodeProcess(folder, model=server.url, options="[picture=png,silence_s=3]", stuck_worker_s=3600.0)
    client = Client(context, process)
    client.ready()
    yield client
    process.stop()
    client.close()


@pytest.fixture
def client(node: Client, server: Server) -> Client:
    """The node's client with nothing heard yet, and a server that answers."""
    if server.process.poll() is not None:
        server.start()
    node.ready()
    for topic, messages in node.heard.items():
        if topic != "status":
            messages.clear()
    return node


def image(client: Client):
    return stamped(client.node, scene())


def test_the_node_answers_with_the_servers_engine(client: Client) -> None:
    status = client.ready()
    assert (status.model, status.device, status.precision) == ("stand-in", "cpu", "fp32")
    client.show(scene())
    result = client.say("the box")
    assert result.status == Segmentation.SUCCESS, result.message
    assert result.model == "stand-in"
    mask = result.masks[0]
    assert (mask.area, mask.roi.x_offset, mask.roi.y_offset) == (TRUTH.sum(), 100, 60)
    assert (pixels_of(mask.pixels) == 255).all()
    client.show(None)
    assert client.call("nothing", image(client)).status == Segmentation.NOT_FOUND
    assert client.call("refuse", image(client)).status == Segmentation.INVALID_COMMAND


def test_no_process_of_the_node_has_torch(client: Client) -> None:
    for process in (client.lisa.process.pid, client.lisa.worker.pid):
        assert "/torch/" not in Path(f"/proc/{process}/maps").read_text()


def test_a_conversation_goes_on_at_the_server(client: Client) -> None:
    answers = [client.call("the box", image(client), session="talk").segmentation.answer for _ in range(3)]
    assert [f"turn {turn}" in answer for turn, answer in enumerate(answers)] == [True] * 3


def test_feedback_arrives_while_the_server_works_and_a_cancel_frees_it(client: Client, server: Server) -> None:
    canceled = server.count("Cancelled")
    goal = client.goal("slow", image(client))
    client.wait(lambda: any(f.partial_answer for f in goal.feedback), "partial answer")
    goal.cancel()
    status, result = goal.result()
    assert (status, result.status) == (GoalStatus.STATUS_CANCELED, Segmentation.CANCELED)
    wait_for(lambda: server.count("Cancelled") == canceled + 1, "cancel at the server")
    client.works()


def test_a_time_limit_frees_the_server(client: Client, server: Server) -> None:
    canceled = server.count("Cancelled")
    goal = client.goal("slow", image(client), timeout=Duration(nanosec=500_000_000))
    assert goal.result()[1].status == Segmentation.TIMEOUT
    wait_for(lambda: server.count("Cancelled") == canceled + 1, "cancel at the server")
    client.works()


def test_a_lost_server_costs_one_command_and_is_found_again(client: Client, server: Server) -> None:
    worker = client.lisa.worker.pid
    goal = client.goal("slow", image(client))
    client.wait(lambda: any(f.partial_answer for f in goal.feedback), "partial answer")
    server.kill()
    _, result = goal.result()
    assert result.status == Segmentation.INTERNAL_ERROR
    assert "the connection to" in result.message
    reply = client.call("the box", image(client))
    assert reply.status == Segmentation.NOT_READY
    assert "start 'lisa serve' there" in reply.message
    server.start()
    client.works()
    assert client.lisa.worker.pid == worker
    assert TOKEN not in client.lisa.said()


def test_a_server_with_another_model_is_not_asked(client: Client, server: Server) -> None:
    server.kill()
    server.start("colour_engine:load")
    reply = client.call("the box", image(client))
    assert reply.status == Segmentation.NOT_READY
    assert "configure the node again" in reply.message
    server.kill()
    server.start()
    client.works()


def test_a_full_queue_of_the_server_is_busy(client: Client, server: Server, monkeypatch) -> None:
    """Another robot's command fills it."""
    server.kill()
    server.start("standin:load", "--waiting", "0")
    monkeypatch.setenv("LISA_TOKEN", TOKEN)
    other, stop = load_engine(server.url), threading.Event()

    def slow() -> None:
        with pytest.raises(Cancelled):
            other.ask(other.encode(scene()), Ask("slow"), should_stop=stop.is_set)

    thread = threading.Thread(target=slow)
    thread.start()
    try:
        wait_for(lambda: server.metric("lisa_running") == 1, "running command")
        assert client.call("the box", image(client)).status == Segmentation.BUSY
    finally:
        stop.set()
        thread.join()
    wait_for(lambda: server.metric("lisa_running") == 0, "free server")
    client.works()


def test_a_server_that_is_not_there_at_the_start_is_an_error_of_the_state(launch, server: Server) -> None:
    client = launch(model="http://127.0.0.1:9", options="[wait_s=0]")
    status = client.state(Status.ERROR, "error")
    assert "http://127.0.0.1:9 cannot be reached" in status.message
