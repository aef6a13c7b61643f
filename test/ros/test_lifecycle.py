"""A managed node: transitions, what they free, and that no command is lost in one."""

import signal

import psutil
import pytest
from action_msgs.msg import GoalStatus
from lifecycle_msgs.msg import State as LifecycleState
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from machine_speed import limit
from robot import scene, stamped, wait_for
from test_parameters import put

from lisa_ros.action import Segment
from lisa_ros.msg import Segmentation, Status


class Manager:
    """What Nav2's lifecycle manager does with a node, bond aside."""

    def __init__(self, client):
        self.client = client
        self.changer = client.node.create_client(ChangeState, f"{client.lisa.name}/change_state")
        self.asker = client.node.create_client(GetState, f"{client.lisa.name}/get_state")
        client.wait(self.changer.service_is_ready, "change_state")
        client.wait(self.asker.service_is_ready, "get_state")
        client.wait(client.service.service_is_ready, "segment_image")
        client.wait(client.action.server_is_ready, "action server")
        assert self.state  # a reply to the client made last: the node knows those made before it, too

    def ask(self, transition):
        return self.changer.call_async(ChangeState.Request(transition=Transition(id=transition)))

    def change(self, transition):
        return self.client.done(self.ask(transition), "transition").success

    @property
    def state(self):
        return self.client.insist(lambda: self.asker.call_async(GetState.Request()), "state").current_state.id


@pytest.fixture(scope="module")
def managed(launch):
    """A node that waits for its manager; every test leaves it unconfigured."""
    return launch(autostart="false")


@pytest.fixture
def manager(managed):
    manager = Manager(managed)
    if manager.state == LifecycleState.PRIMARY_STATE_ACTIVE:
        assert manager.change(Transition.TRANSITION_DEACTIVATE)
    if manager.state == LifecycleState.PRIMARY_STATE_INACTIVE:
        assert manager.change(Transition.TRANSITION_CLEANUP)
    return manager


def own_image(client):
    return stamped(client.node, scene())


def start(manager):
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    manager.client.ready()


def children(client):
    return psutil.Process(client.lisa.process.pid).children()


def test_a_node_goes_through_its_states_and_answers_in_every_one(manager):
    client = manager.client

    def refused(says):
        answer = client.call("the box", own_image(client))
        assert (answer.status, says in answer.message) == (Segmentation.NOT_READY, True), answer.message

    client.state(Status.UNCONFIGURED, "unconfigured node")
    assert not children(client)
    assert client.node.count_subscribers(f"{client.lisa.namespace}/image") == 0
    refused("not configured")

    assert manager.change(Transition.TRANSITION_CONFIGURE)
    assert client.state(Status.INACTIVE, "loaded model").model == "stand-in"
    assert client.node.count_subscribers(f"{client.lisa.namespace}/image") == 0
    refused("inactive")

    assert manager.change(Transition.TRANSITION_ACTIVATE)
    client.wait(lambda: client.images.get_subscription_count() == 1, "subscription to image")
    client.show(scene())
    client.wait(lambda: client.call("the box").status == Segmentation.SUCCESS, "answer about the camera's frame")
    client.view = None
    worker = client.lisa.worker

    assert manager.change(Transition.TRANSITION_DEACTIVATE)
    client.wait(lambda: client.images.get_subscription_count() == 0, "end of the subscription to image")
    client.state(Status.INACTIVE, "inactive node")
    assert client.lisa.worker.pid == worker.pid
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    assert client.call("the box").status == Segmentation.NO_IMAGE  # what was seen before is forgotten
    client.works()

    assert manager.change(Transition.TRANSITION_DEACTIVATE)
    assert manager.change(Transition.TRANSITION_CLEANUP)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    client.state(Status.UNCONFIGURED, "unconfigured node")
    refused("not configured")


def test_configure_returns_at_once_and_loading_goes_on_while_active(launch, tmp_path):
    gate = tmp_path / "gate"
    client = launch(autostart="false", options=f"[loading=gated, 'gate={gate}']")
    manager = Manager(client)
    assert manager.change(Transition.TRANSITION_CONFIGURE)  # while nothing can be loaded: it did not wait for that
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    client.state(Status.LOADING, "loading")
    gate.touch()
    client.works()


@pytest.mark.parametrize("stage", ["READING", "GENERATING"])
def test_deactivating_in_the_middle_of_commands_answers_each_once(manager, stage):
    client = manager.client
    start(manager)
    worker = client.lisa.worker
    goal = client.goal("linger reading slow" if stage == "READING" else "slow box", own_image(client))
    goal.reach(getattr(Segment.Feedback, f"STAGE_{stage}"))
    waiting = client.call_async("the box", own_image(client))
    client.wait(lambda: client.heard["status"][-1].queued == 1, "queue")
    assert manager.change(Transition.TRANSITION_DEACTIVATE)
    status, result = goal.result()
    assert (status, result.status) == (GoalStatus.STATUS_ABORTED, Segmentation.NOT_READY)
    assert "deactivated" in result.message
    answer = client.done(waiting)
    assert answer.status == Segmentation.NOT_READY
    for request_id in (goal.request_id, answer.segmentation.request_id):
        assert client.heard_result(request_id).status == Segmentation.NOT_READY
    assert manager.change(Transition.TRANSITION_ACTIVATE)
    client.works()
    assert client.lisa.worker.pid == worker.pid
    assert len([r for r in client.heard["result"] if r.request_id == goal.request_id]) == 1


@pytest.mark.parametrize("transition", [Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN])
def test_commands_that_cross_a_transition_are_all_answered(launch, managed, manager, transition):
    if transition == Transition.TRANSITION_ACTIVE_SHUTDOWN:  # there is no way back: a node of its own
        manager = Manager(launch(autostart="false"))
    client = manager.client
    start(manager)
    sent = [client.call_async(f"box {i}", own_image(client)) for i in range(3)]
    changed = manager.ask(transition)
    sent += [client.call_async(f"box {i}", own_image(client)) for i in range(3)]
    assert client.done(changed).success
    statuses = {client.done(answer).status for answer in sent}
    assert statuses <= {Segmentation.SUCCESS, Segmentation.NOT_READY, Segmentation.BUSY}
    assert Segmentation.NOT_READY in statuses


def test_after_shutdown_the_memory_is_free_and_commands_are_refused(launch):
    client = launch()
    client.ready()
    manager, worker = Manager(client), client.lisa.worker
    assert manager.change(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert not worker.is_running()
    client.state(Status.FINALIZED, "finalized node")
    assert client.call("the box", own_image(client)).status == Segmentation.NOT_READY
    assert client.lisa.stop() == 0


def test_a_transition_that_is_not_possible_is_refused_and_answered(manager):
    assert not manager.change(Transition.TRANSITION_ACTIVATE)
    assert not manager.change(99)
    assert manager.state == LifecycleState.PRIMARY_STATE_UNCONFIGURED
    start(manager)


def test_parameters_are_read_at_configure_and_fixed_from_then_on(manager):
    client = manager.client
    client.wait(client.setter.service_is_ready, "parameter service")
    assert put(client, "options", ["loading=missing"]) == (True, "")
    assert manager.change(Transition.TRANSITION_CONFIGURE)
    status = client.state(Status.ERROR, "error state")
    assert "standin:load does not exist" in status.message
    assert not manager.change(Transition.TRANSITION_ACTIVATE)
    assert "does not exist" in client.lisa.said().splitlines()[-1]
    successful, reason = put(client, "options", ["loading=ready"])
    assert (successful, "read-only once" in reason, "cleanup" in reason) == (False, True, True)
    assert manager.change(Transition.TRANSITION_CLEANUP)
    assert put(client, "options", ["loading=ready"]) == (True, "")
    start(manager)
    client.works()


def test_nothing_is_left_over_from_many_cycles(manager):
    client = manager.client
    node = psutil.Process(client.lisa.process.pid)

    def cycle():
        start(manager)
        client.works()
        assert manager.change(Transition.TRANSITION_DEACTIVATE)
        assert manager.change(Transition.TRANSITION_CLEANUP)

    cycle()
    files, threads = node.num_fds(), node.num_threads()
    for _ in range(5):
        cycle()
    assert node.num_fds() < files + 5  # one that is left of every cycle would be seen
    assert node.num_threads() < threads + 5
    assert not node.children()


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_node_that_is_stopped_answers_what_is_open(launch, told):
    client = launch()
    client.ready()
    goal = client.goal("hang", own_image(client))
    goal.reach(Segment.Feedback.STAGE_READING)
    waiting = client.call_async("the box", own_image(client))
    client.wait(lambda: client.heard["status"][-1].queued == 1, "queue")
    client.lisa.process.send_signal(told)
    wait_for(lambda: goal.result_future.done() and waiting.done(), "answers", step=client.spin)
    assert goal.result_future.result().result.status == Segmentation.NOT_READY
    assert waiting.result().status == Segmentation.NOT_READY
    assert client.lisa.process.wait(limit(10)) == 0
    assert "Traceback" not in client.lisa.said()
