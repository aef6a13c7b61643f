"""config/sros2/lisa_policy.xml names what the running node says and hears, and nothing else."""

from xml.etree import ElementTree

import pytest
import rclpy

from lisa_console.robot import RobotSide

# What only some nodes have. vision_msgs is not installed everywhere; a clock is heard with use_sim_time.
SOMETIMES = {"~/detections", "~/detections_3d", "~/label_info", "/clock", "/parameter_events"}
RULES = {"topics": {"publish", "subscribe"}, "services": {"request", "reply"}, "actions": {"call", "execute"}}


@pytest.fixture(scope="module")
def policy(repository):
    return ElementTree.parse(repository / "config" / "sros2" / "lisa_policy.xml").getroot()


def named(policy, enclave, kind, rule):
    """Names of one kind (topic, service, action) that a rule of an enclave allows."""
    (own,) = (one for one in policy.iter("enclave") if one.get("path") == enclave)
    return {e.text for group in own.iter(f"{kind}s") if group.get(rule) == "ALLOW" for e in group.iter(kind)}


def test_it_has_the_structure_that_sros2_reads(policy):
    """policy.xsd of sros2, version 0.2.0, in words."""
    assert (policy.tag, policy.attrib) == ("policy", {"version": "0.2.0"})
    assert [child.tag for child in policy] == ["enclaves"]
    for enclave in policy[0]:
        assert (enclave.tag, set(enclave.attrib)) == ("enclave", {"path"})
        assert [child.tag for child in enclave] == ["profiles"]
        for profile in enclave[0]:
            assert (profile.tag, set(profile.attrib)) == ("profile", {"ns", "node"})
            assert len(profile)
            for group in profile:
                assert group.tag in RULES
                assert set(group.attrib) <= RULES[group.tag]
                assert set(group.attrib.values()) == {"ALLOW"}
                assert len(group)
                assert {child.tag for child in group} == {group.tag[:-1]}
                assert all(child.text and child.text.strip() == child.text and not len(child) for child in group)


def test_no_name_is_a_pattern(policy):
    assert not [element.text for element in policy.iter() if element.text and {"*", "?", "["} & set(element.text)]


def test_it_names_what_the_running_node_has(policy, client):
    lisa, who = client.lisa, ("lisa", client.lisa.namespace)

    def names(found):
        """As the policy writes them."""
        return {name.replace(f"{lisa.name}/", "~/").replace(f"{lisa.namespace}/", "") for name, _ in found}

    published = names(client.node.get_publisher_names_and_types_by_node(*who))
    heard = names(client.node.get_subscriber_names_and_types_by_node(*who))
    served = names(client.node.get_service_names_and_types_by_node(*who))
    actions = {name.split("/_action/")[0] for name in served if "/_action/" in name}
    for kind, rule, there in (
        ("topic", "publish", {name for name in published if "/_action/" not in name}),
        ("topic", "subscribe", heard),
        ("service", "reply", {name for name in served if "/_action/" not in name}),
        ("action", "execute", actions),
    ):
        allowed = named(policy, "/lisa", kind, rule)
        assert there <= allowed
        assert allowed - there <= SOMETIMES


def test_it_names_what_the_console_has(policy):
    rclpy.init()
    try:
        console = RobotSide()
        console._watch(frozenset(console.cameras))  # image and ~/tracked are listened to while a page is visible
        who = (console.get_name(), console.get_namespace())
        published = {name for name, _ in console.get_publisher_names_and_types_by_node(*who)}
        heard = {name for name, _ in console.get_subscriber_names_and_types_by_node(*who)}
        called = {name for name, _ in console.get_client_names_and_types_by_node(*who)}
        served = {name for name, _ in console.get_service_names_and_types_by_node(*who)}
        console.destroy_node()
    finally:
        rclpy.try_shutdown()
    for kind, rule, there in (
        ("topic", "publish", published),
        ("topic", "subscribe", {name for name in heard if "/_action/" not in name}),
        ("service", "request", {name for name in called if "/_action/" not in name}),
        ("service", "reply", served),
        ("action", "call", {name.split("/_action/")[0] for name in called if "/_action/" in name}),
    ):
        names = named(policy, "/lisa_console", kind, rule)
        allowed = {name.replace("~", "/lisa_console") if name[0] in "~/" else f"/{name}" for name in names}
        assert there <= allowed
        assert allowed - there <= SOMETIMES
