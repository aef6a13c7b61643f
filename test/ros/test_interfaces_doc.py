"""docs/interfaces.md is compared with the code and with the running node."""

import re
from importlib.util import find_spec

import pytest
from lifecycle_names import LIFECYCLE

from lisa_ros.perception.image_codec import LAYOUTS
from lisa_ros.ros.parameters import as_table
from lisa_ros.runtime.status import Status

STANDARD = ("parameter", "rosout", "get_type_description", "_action/", "logger")


@pytest.fixture(scope="module")
def text(repository):
    return (repository / "docs" / "interfaces.md").read_text()


def names(text, heading):
    """First column of the table under a heading."""
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `?([^`|]+?)`? \|", section, re.M)[1:]


def test_the_parameters_are_the_dataclasses(text):
    assert text.endswith(as_table()), "write it again: python -m lisa_ros.ros.parameters table"


def test_the_statuses_are_the_codes(text):
    rows = re.findall(r"^\| ([A-Z_]+) \| (\d+) \|", text, re.M)
    assert rows == [(status.name, str(status.value)) for status in Status]


def test_the_encodings_are_those_of_the_codec(text):
    assert all(re.search(rf"\b{encoding}\b", text) for encoding in LAYOUTS)


def test_the_topics_services_and_action_are_those_of_the_running_node(text, client):
    lisa = client.lisa

    def short(found):
        """The node's own names, as the document writes them."""
        everything = {name.replace(f"{lisa.name}/", "~/").replace(f"{lisa.namespace}/", "") for name, _ in found}
        return {name for name in everything if not any(word in name for word in STANDARD)}

    who = ("lisa", lisa.namespace)
    published = short(client.node.get_publisher_names_and_types_by_node(*who))
    vision = set(names(text, "Out, with vision_msgs"))
    assert published - LIFECYCLE == set(names(text, "Out")) | (vision if find_spec("vision_msgs") else set())
    assert short(client.node.get_subscriber_names_and_types_by_node(*who)) - {"/clock"} == set(names(text, "In"))
    services = short(client.node.get_service_names_and_types_by_node(*who))
    assert services - LIFECYCLE | {"~/segment"} == set(names(text, "Ask"))
    assert services | published >= LIFECYCLE
    assert all(f"`{name}`" in text for name in LIFECYCLE)
    assert client.action.server_is_ready()
