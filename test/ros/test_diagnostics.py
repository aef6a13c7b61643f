"""/diagnostics, and the hints where messages cannot come through."""

import subprocess
import sys

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from machine_speed import limit
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from robot import scene, stamped
from sensor_msgs.msg import CompressedImage, Image

from lisa_ros.msg import Segmentation, Status
from lisa_ros.ros.diagnostics import percentile, resident_bytes


@pytest.fixture
def diagnostics(client):
    return Diagnostics(client)


class Diagnostics:
    """The newest status of each part of the node."""

    def __init__(self, client):
        self.client = client
        self.parts = {}
        client.node.create_subscription(DiagnosticArray, "/diagnostics", self._take, 10)

    def _take(self, array):
        for status in array.status:
            name, _, part = status.name.partition(": ")
            if name == self.client.lisa.name:
                self.parts[part] = (status, {pair.key: pair.value for pair in status.values})

    def until(self, part, condition, what):
        """The status of ``part`` and its values, once ``condition`` holds for them."""
        self.parts.pop(part, None)
        return self.client.wait(
            lambda: (found := self.parts.get(part)) and condition(*found) and found, f"{what} on /diagnostics"
        )


def test_the_node_and_its_camera_are_described(launch):
    client = launch()  # the shared one may have had depth before, and says that it has stopped
    diagnostics = Diagnostics(client)
    client.ready()
    client.show(scene())
    for _ in range(3):
        client.call("the box")
    status, values = diagnostics.until("node", lambda _, v: v["state"] == "READY", "state")
    assert status.level == DiagnosticStatus.OK
    assert (values["model"], values["device"], values["precision"]) == ("stand-in", "cpu", "fp32")
    assert 0 < float(values["latency_p50_s"]) <= float(values["latency_p95_s"]) < 30
    assert 3 <= int(values["commands_measured"]) <= 100
    assert (values["queued"], values["gpu_memory_mib"]) == ("0", "0")
    assert 10 < float(values["node_memory_mib"]) < 2000
    assert 10 < float(values["worker_memory_mib"]) < 2000
    status, values = diagnostics.until("camera", lambda _, v: float(v["rate_hz"]) > 2, "images")
    assert (status.level, values["topic"]) == (DiagnosticStatus.OK, f"{client.lisa.namespace}/image")
    assert float(values["age_s"]) < 5
    assert int(values["received"]) > 3
    assert values["depth"] == "ok"


def test_restarts_of_the_worker_are_counted(client, diagnostics):
    _, values = diagnostics.until("node", lambda _, v: v["state"] == "READY", "state")
    client.lisa.worker.kill()
    status, _ = diagnostics.until(
        "node", lambda _, v: int(v["worker_restarts"]) == int(values["worker_restarts"]) + 1, "another restart"
    )
    assert status.level in (DiagnosticStatus.OK, DiagnosticStatus.WARN)
    client.works()


def test_a_model_that_cannot_be_loaded_is_an_error(launch):
    client = launch(options="[loading=missing]")
    status, _ = Diagnostics(client).until("node", lambda s, _: s.level == DiagnosticStatus.ERROR, "error")
    assert "does not exist" in status.message


def test_silence_names_the_topic_and_the_cure_and_ends_with_an_image(launch):
    client = launch()
    diagnostics = Diagnostics(client)
    client.ready()
    client.node.destroy_publisher(client.images)
    elsewhere = client.node.create_publisher(Image, "wrist/image_raw", 1)
    warn = DiagnosticStatus.WARN
    status, _ = diagnostics.until("camera", lambda s, _: s.level == warn, "warning")
    own = f"{client.lisa.namespace}/image"
    assert f"nobody publishes {own};" in status.message
    assert f"{client.lisa.namespace}/wrist/image_raw" in status.message
    assert "remap image:=" in status.message
    assert [line.count(own) for line in client.lisa.said().splitlines() if "nobody publishes" in line] == [1]
    client.node.destroy_publisher(elsewhere)

    wrong = client.node.create_publisher(CompressedImage, "image", 1)
    status, _ = diagnostics.until("camera", lambda s, _: "CompressedImage" in s.message, "other type")
    assert "set image_transport:=compressed" in status.message
    client.node.destroy_publisher(wrong)

    right = client.node.create_publisher(Image, "image", 1)
    diagnostics.until("camera", lambda s, _: "somebody publishes it" in s.message, "silent camera")
    client.wait(
        lambda: right.publish(stamped(client.node, scene())) or diagnostics.parts["camera"][0].level == b"\x00", "OK"
    )


def test_qos_that_does_not_match_is_a_warning_with_the_cure(launch):
    client = launch(**{"qos_overrides.~/mask.publisher.reliability": "best_effort"})
    client.ready()
    diagnostics = Diagnostics(client)
    # What robot.Client asks for on ~/mask is reliable.
    status, _ = diagnostics.until("node", lambda s, _: "QoS" in s.message, "mismatch")
    assert (status.level, f"{client.lisa.name}/mask" in status.message) == (DiagnosticStatus.WARN, True)
    assert f"set qos_overrides.{client.lisa.name}/mask.publisher.reliability" in client.lisa.said()
    asking = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)
    late = client.node.create_subscription(Segmentation, f"{client.lisa.name}/result", lambda _: None, asking)
    diagnostics.until("node", lambda s, _: "/result" in s.message, "second mismatch")
    # What two others cannot agree on there is not told: with us, both of them do.
    offering = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    client.node.create_publisher(Segmentation, f"{client.lisa.name}/result", offering)
    client.node.destroy_subscription(late)
    diagnostics.until("node", lambda s, _: "/result" not in s.message and "/mask" in s.message, "end of it")


def reported(client):
    """The lines about the inputs of the node's cameras."""

    def lines():
        return [line for line in client.lisa.said().splitlines() if " reads image " in line]

    return client.wait(lines, "line about the inputs")


def test_the_log_says_which_inputs_are_there_and_what_is_off(launch):
    space = (client := launch()).lisa.namespace
    client.ready()
    (line,) = reported(client)
    assert f"camera reads image {space}/image (1 publisher), camera_info {space}/camera_info (1 publisher)" in line
    assert f"depth {space}/depth (no publisher); no depth: results in metres are off" in line
    assert line.startswith("[INFO]")


def test_the_log_says_nothing_is_off_where_everything_is_there(launch):
    client = launch()
    depth = client.node.create_publisher(Image, "depth", 1)
    client.ready()
    (line,) = reported(client)
    assert "off" not in line.partition("depth ")[2]
    client.node.destroy_publisher(depth)


def test_depth_of_another_type_is_a_warning_in_the_log_and_on_diagnostics(launch):
    client = launch(cameras="[left]")
    diagnostics = Diagnostics(client)
    images = client.node.create_publisher(Image, "left/image", 1)
    depth = client.node.create_publisher(CompressedImage, "left/depth", 1)
    client.ready()
    client.wait(lambda: images.get_subscription_count(), "subscription")
    images.publish(stamped(client.node, scene()))
    (line,) = reported(client)
    says = f"{client.lisa.namespace}/left/depth carries sensor_msgs/msg/CompressedImage, the node reads"
    assert says in line
    assert "no camera_info and depth: results in metres are off" in line
    assert line.startswith("[WARN]")
    status, values = diagnostics.until("camera left", lambda _, v: v["depth"] != "ok", "depth of another type")
    assert (status.level, says in values["depth"]) == (DiagnosticStatus.WARN, True)
    client.node.destroy_publisher(images)
    client.node.destroy_publisher(depth)


def test_an_inactive_node_is_as_it_should_be(launch):
    client = launch(autostart="false")
    client.state(Status.UNCONFIGURED, "unconfigured node")
    status, values = Diagnostics(client).until("node", lambda _, v: v["state"] == "UNCONFIGURED", "state")
    assert (status.level, values["worker_memory_mib"]) == (DiagnosticStatus.OK, "0")


@pytest.mark.parametrize(
    ("values", "p50", "p95"), [([], 0, 0), ([3.0], 3, 3), ([float(i) for i in range(101)], 50, 95)]
)
def test_percentiles(values, p50, p95):
    assert (percentile(values, 50), percentile(values, 95)) == (pytest.approx(p50), pytest.approx(p95))


def test_the_name_that_event_callbacks_have_in_humble_is_known():
    """rclpy of Humble has no event_handler, and the same classes in qos_event."""
    pytest.importorskip("rclpy.event_handler")
    code = (
        "import sys, rclpy.node, rclpy.action, rclpy.event_handler as now; sys.modules['rclpy.qos_event'] = now; "
        "sys.modules['rclpy.event_handler'] = None; import lisa_ros.ros.diagnostics as ours; "
        "assert ours.SubscriptionEventCallbacks is now.SubscriptionEventCallbacks"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=limit(60))


def test_a_process_that_is_gone_has_no_memory():
    assert (resident_bytes(None), resident_bytes(2**30)) == (0, 0)
