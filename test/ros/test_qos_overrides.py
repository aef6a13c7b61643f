"""An override of one topic's QoS is of that topic."""

import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from robot import Client

OVERRIDES = {
    "qos_overrides.~/mask.publisher.durability": "transient_local",
    "qos_overrides.~/result.publisher.reliability": "best_effort",
    "qos_overrides.~/command.subscription.reliability": "best_effort",
    "qos_overrides./eyes/image.subscription.reliability": "reliable",
}


@pytest.fixture(scope="module")
def overridden(launch) -> Client:
    client = launch(remap={"image": "/eyes/image"}, **OVERRIDES)
    client.ready()
    return client


def publisher_of(client: Client, topic: str):
    (info,) = client.wait(lambda: client.node.get_publishers_info_by_topic(f"{client.lisa.name}/{topic}"), topic)
    return info.qos_profile


def subscription_of(client: Client, topic: str):
    (info,) = client.wait(lambda: client.node.get_subscriptions_info_by_topic(topic), topic)
    return info.qos_profile


def test_the_override_of_a_publisher_leaves_the_others_alone(overridden: Client) -> None:
    assert publisher_of(overridden, "mask").durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert publisher_of(overridden, "result").reliability == ReliabilityPolicy.BEST_EFFORT
    for topic in ("labels", "camera_info", "depth", "answer", "points", "overlay", "tracked", "markers"):
        assert publisher_of(overridden, topic).durability == DurabilityPolicy.VOLATILE, topic
        assert publisher_of(overridden, topic).reliability == ReliabilityPolicy.RELIABLE, topic


def test_the_override_of_a_subscription_leaves_services_and_the_others_alone(overridden: Client) -> None:
    assert subscription_of(overridden, f"{overridden.lisa.name}/command").reliability == ReliabilityPolicy.BEST_EFFORT
    assert subscription_of(overridden, "/eyes/image").reliability == ReliabilityPolicy.RELIABLE
    info = subscription_of(overridden, f"{overridden.lisa.namespace}/camera_info")
    assert info.reliability == ReliabilityPolicy.BEST_EFFORT
    overridden.works()  # the action and the service kept their own
