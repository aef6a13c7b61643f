"""Several cameras in one node, several nodes beside each other, simulated time, and topics of any name."""

import numpy as np
import pytest
from robot import SIZE, Client, NodeProcess, scene, stamped
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from lisa_ros.msg import Segmentation


class Rig:
    """Cameras of a client's node; each shows a box of its own width."""

    def __init__(self, client, **topics):
        self.client = client
        self.publishers = {}
        for index, (name, topic) in enumerate(topics.items()):
            truth = np.zeros(SIZE, bool)
            truth[10:20, : 10 * (index + 1)] = True
            publisher = client.node.create_publisher(Image, topic, 1)
            self.publishers[name] = publisher, scene(truth=truth), int(truth.sum())

    def shoot(self):
        for name, (publisher, pixels, _) in self.publishers.items():
            publisher.publish(stamped(self.client.node, pixels, frame_id=name))

    def connect(self):
        for name, (publisher, _, _) in self.publishers.items():
            self.client.wait(lambda p=publisher: p.get_subscription_count() > 0, f"subscription to {name}")

    def seen_by(self, ask):
        """The camera that the answer of ``ask`` is about, its mask checked."""

        def answered():
            self.shoot()
            answer = ask()
            return answer.status == Segmentation.SUCCESS and answer

        answer = self.client.wait(answered, "answer about a frame")
        [mask] = answer.masks
        assert mask.area == self.publishers[answer.header.frame_id][2]
        return answer.header.frame_id


@pytest.fixture(scope="module")
def two(launch):
    client = launch(cameras="[front, arm/wrist]")
    client.ready()
    rig = Rig(client, front="front/image", wrist="arm/wrist/image")
    rig.connect()
    return client, rig


def test_a_command_is_about_the_camera_that_it_names(two):
    client, rig = two
    for camera, frame_id in (("arm/wrist", "wrist"), ("front", "front"), ("", "front")):
        assert rig.seen_by(lambda c=camera: client.call("the box", camera=c).segmentation) == frame_id
        assert rig.seen_by(lambda c=camera: client.goal("the box", camera=c).result()[1].segmentation) == frame_id
    assert rig.seen_by(lambda: client.say("the box")) == "front"


def test_the_answer_names_the_camera(two, client):
    several, rig = two
    for asked, named in (("arm/wrist", "arm/wrist"), ("front", "front"), ("", "front")):
        answers = []
        rig.seen_by(lambda c=asked, a=answers: a.append(several.call("the box", camera=c).segmentation) or a[-1])
        assert answers[-1].camera == named
    assert client.call("the box", stamped(client.node, scene())).segmentation.camera == ""


def test_a_camera_that_is_not_there_is_refused_with_the_names(two, client):
    several, _ = two
    answer = several.call("the box", camera="rear")
    assert answer.status == Segmentation.INVALID_COMMAND
    assert "no camera 'rear'; there is front, arm/wrist" in answer.message
    assert several.goal("the box", camera="x" * 1000).result()[1].status == Segmentation.INVALID_COMMAND
    one = client.call("the box", stamped(client.node, scene()), camera="rear")
    assert (one.status, "without a name" in one.message) == (Segmentation.INVALID_COMMAND, True)
    client.works()


def test_each_camera_has_its_own_topics_and_qos(two):
    client, _ = two
    names = client.node.get_subscriber_names_and_types_by_node("lisa", client.lisa.namespace)
    short = {name.removeprefix(f"{client.lisa.namespace}/") for name, _ in names}
    for camera in ("front", "arm/wrist"):
        assert {f"{camera}/image", f"{camera}/camera_info", f"{camera}/depth"} <= short
    assert "image" not in short


def test_nodes_in_one_namespace_do_not_hear_each_other(tmp_path_factory, context):
    """The same namespace, other names: each has its own commands, answers and diagnostics."""
    first = NodeProcess(tmp_path_factory.mktemp("node"))
    second = NodeProcess(tmp_path_factory.mktemp("node"), beside=first, name="lisa_two")
    clients = [Client(context, node) for node in (first, second)]
    try:
        for client in clients:
            client.works()
        said = clients[1].call("the second's box", stamped(clients[1].node, scene()))
        assert said.segmentation.command == "the second's box"
        clients[1].heard_result(said.segmentation.request_id)
        clients[0].works()
        assert all(result.command != "the second's box" for result in clients[0].heard["result"])
    finally:
        for client in clients:
            client.lisa.stop()
            client.close()


def test_simulated_time_is_taken_from_the_clock_and_may_jump_back(launch):
    client = launch(use_sim_time="true")
    clock = client.node.create_publisher(Clock, "/clock", 1)
    client.ready()
    now = [1000]

    def shoot():
        message = Clock()
        message.clock.sec = now[0]
        clock.publish(message)
        image = stamped(client.node, scene())
        image.header.stamp.sec, image.header.stamp.nanosec = now[0] - 2, 0
        client.images.publish(image)
        client.spin(0.05)

    def aged():
        shoot()
        answer = client.call("the box")
        return answer.status == Segmentation.SUCCESS and abs(answer.segmentation.image_age_s - 2) < 0.1 and answer

    for sec in (1000, 1010, 500):  # a bag that loops
        now[0] = sec
        answer = client.wait(aged, f"a frame's age by the clock at {sec}")
        assert answer.segmentation.header.stamp.sec == sec - 2


def test_an_image_has_no_age_before_the_simulated_clock_starts(launch):
    client = launch(use_sim_time="true")
    client.ready()
    client.show(scene())  # stamped by the wall clock
    answer = client.say("the box")
    assert answer.status == Segmentation.SUCCESS
    assert answer.header.stamp.sec > 10**9
    assert answer.image_age_s == 0.0


def test_every_topic_may_have_another_name(tmp_path, context):
    remaps = {"image": "eyes/left", "~/command": "speech", "~/result": "found", "/diagnostics": "health"}
    client = Client(context, NodeProcess(tmp_path, remap=remaps))
    try:
        client.ready = lambda: client.wait(client.service.service_is_ready, "service")
        client.ready()
        rig = Rig(client, camera="eyes/left")
        rig.connect()
        found = []
        client.node.create_subscription(Segmentation, "found", found.append, 10)
        commands = client.node.create_publisher(String, "speech", 10)
        client.wait(lambda: commands.get_subscription_count() > 0, "subscription to speech")
        client.wait(lambda: client.node.count_publishers(f"{client.lisa.namespace}/health") == 1, "health")

        def heard():
            rig.shoot()
            commands.publish(String(data="the box"))
            return any(result.status == Segmentation.SUCCESS for result in found)

        client.wait(heard, "result under its other name")
    finally:
        client.lisa.stop()
        client.close()
