"""Fixtures: a node as on a robot, and a client that talks to it over DDS."""

from __future__ import annotations

import importlib.util

import pytest

if importlib.util.find_spec("rclpy") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    import rclpy
    from robot import Client, NodeProcess


def pytest_report_header() -> str | None:
    """Say why the tests of the node are missing, where they are."""
    if importlib.util.find_spec("rclpy") is None:
        return "no rclpy: the tests of the ROS node are left out (make build, or source a ROS installation)"
    return None


@pytest.fixture(scope="session")
def context():
    """A ROS context of the tests' own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.try_shutdown(context=context)


@pytest.fixture(scope="module")
def launch(tmp_path_factory, context):
    """launch(**parameters) -> Client of a new node; all are stopped after the module."""
    clients: list[Client] = []

    def launch(**parameters) -> Client:
        clients.append(Client(context, NodeProcess(tmp_path_factory.mktemp("node"), **parameters)))
        return clients[-1]

    yield launch
    for client in clients:
        client.lisa.stop()
        client.close()


@pytest.fixture(scope="session")
def shared_client(tmp_path_factory, context):
    client = Client(context, NodeProcess(tmp_path_factory.mktemp("node")))
    yield client
    client.lisa.stop()
    client.close()


@pytest.fixture
def client(shared_client):
    """A ready node that all tests share, with nothing heard yet and no camera. It has survived the tests before."""
    shared_client.ready()
    shared_client.view = None
    for messages in shared_client.heard.values():
        if messages is not shared_client.heard["status"]:
            messages.clear()
    return shared_client
