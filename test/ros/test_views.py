"""config/lisa.rviz and config/foxglove_layout.json show topics that the running node has."""

import json

import pytest
import yaml

CAMERA = "/camera/image_raw"  # the launch file's default
SHOWN = ("points", "markers", "overlay", "tracked_overlay/compressed")


@pytest.fixture(scope="module")
def foxglove(repository):
    return json.loads((repository / "config" / "foxglove_layout.json").read_text())


@pytest.fixture
def topics(client):
    """Names, as of a node at /lisa, that the running node publishes or subscribes to."""
    who = ("lisa", client.lisa.namespace)
    names = client.node.get_publisher_names_and_types_by_node(*who)
    names += client.node.get_subscriber_names_and_types_by_node(*who)
    return {name.removeprefix(client.lisa.namespace) for name, _ in names} | {CAMERA}


def panels(layout) -> list[str]:
    """The panels that a Foxglove layout tree places."""
    return [layout] if isinstance(layout, str) else [*panels(layout["first"]), *panels(layout["second"])]


def foxglove_topics(config) -> set[str]:
    found = set()
    for panel in config["configById"].values():
        found |= set(panel.get("topics", {})) | set(panel.get("imageMode", {}).values())
        found |= {panel[key] for key in ("topicName", "topicToRender") if key in panel}
        found |= {panel["topicPath"].split(".")[0]} if "topicPath" in panel else set()
    return found


def test_every_panel_of_the_foxglove_layout_is_placed_once(foxglove):
    assert sorted(panels(foxglove["layout"])) == sorted(foxglove["configById"])


def test_the_foxglove_layout_shows_the_nodes_topics(foxglove, topics):
    shown = foxglove_topics(foxglove)
    assert shown <= topics
    assert shown >= {CAMERA, "/lisa/grasps", "/lisa/command", *(f"/lisa/{name}" for name in SHOWN)}


def test_rviz_shows_the_nodes_topics(repository, topics):
    config = yaml.safe_load((repository / "config" / "lisa.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    shown = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert shown <= topics
    assert shown >= {CAMERA, *(f"/lisa/{name}" for name in SHOWN)}
