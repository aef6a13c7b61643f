"""One dataclass is the source of the parameters; what ROS, the yaml file and the docs say is compared with it."""

import os
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter as RosParameter
from robot import NodeProcess, scene, stamped, wait_for

from lisa_ros.errors import ConfigError
from lisa_ros.msg import Segmentation, Status
from lisa_ros.ros.parameters import Parameters, as_table, as_yaml, change, unknown


def test_the_yaml_file_is_what_the_dataclass_says(repository):
    text = (repository / "config" / "lisa.yaml").read_text()
    assert text == as_yaml(), "write it again: python -m lisa_ros.ros.parameters yaml > config/lisa.yaml"
    values = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert Parameters().changed(values) == Parameters()
    assert list(values) == [parameter.name for parameter in fields(Parameters)]


def test_the_table_names_every_parameter():
    assert all(f"| `{parameter.name}` |" in as_table() for parameter in fields(Parameters))


def test_every_parameter_says_what_it_is():
    assert all(len(parameter.metadata["description"]) > 15 for parameter in fields(Parameters))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"timeout_s": -1.0}, "timeout_s is -1.0; it must lie between 0.01"),
        ({"timeout_s": float("nan")}, "timeout_s is nan"),
        ({"queue_size": 1.5}, "queue_size is 1.5; it must be of type int"),
        ({"queue_size": True}, "queue_size is True"),
        ({"precision": "fp8"}, "precision is 'fp8'; choose one of auto, bf16"),
        ({"options": ["family"]}, "option 'family' is not name=value"),
        ({"options": ["conversation=v1"], "conversation": "v1"}, "conversation is a parameter and in options, too"),
        ({"cameras": ["left", "left"]}, "every name must be there once"),
        ({"cameras": ["le ft"]}, "cameras has 'le ft'"),
        ({"max_command_length": 10_001}, "max_command_length is 10001; it must lie between 1 and 10000"),
        ({"no_such": 1}, "no parameter 'no_such'; there are model"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason(values, says):
    with pytest.raises(ConfigError, match=says):
        Parameters().changed(values)


def test_a_whole_number_is_a_number():
    assert Parameters().changed({"timeout_s": 5}).timeout_s == 5.0


def test_a_name_that_is_no_parameter_is_named_with_the_nearest_one():
    texts = unknown(["timeout", "model", "use_sim_time", "qos_overrides./lisa/mask.publisher.depth", "zzz"])
    assert texts == [
        "there is no parameter 'timeout', so it has no effect; did you mean timeout_s?",
        "there is no parameter 'zzz', so it has no effect; config/lisa.yaml has all of them",
    ]


# --- over ROS


def test_a_misspelt_parameter_in_a_file_is_named_at_the_start(launch):
    client = launch(timeout=5.0, use_sim_time="false", **{"qos_overrides.~/mask.publisher.depth": 3})
    client.ready()
    assert client.lisa.said().count("there is no parameter") == 1
    assert "'timeout', so it has no effect; did you mean timeout_s?" in client.lisa.said()


def test_an_empty_list_of_cameras_is_one_camera_without_a_name(launch):
    client = launch(cameras="[]", options="[]")
    client.ready()
    client.wait(lambda: client.images.get_subscription_count() == 1, "subscription to image")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-r", "image:=/a b"], "remap rule: '-r image:=/a b'; names of topics and nodes have letters"),
        (["--params-file", "/no/such.yaml"], "'--params-file /no/such.yaml'; give a YAML file"),
    ],
)
def test_arguments_that_ros_refuses_end_the_node_with_one_line(arguments, says):
    command = [sys.executable, "-m", "lisa_ros.ros.node", "--ros-args", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    lines = [line for line in ended.stderr.splitlines() if "[rcl]" not in line]
    assert len(lines) == 1, ended.stderr
    assert says in lines[0]


@pytest.mark.parametrize("model", ["standin:no_such", "json:loads"], ids=["not there", "raises"])
def test_an_engine_that_cannot_be_made_is_named_once(launch, model):
    client = launch(model=model)
    client.state(Status.ERROR, "error")
    errors = [line for line in client.lisa.said().splitlines() if line.startswith("[ERROR]")]
    assert len(errors) == 1, client.lisa.said()
    assert "Traceback" not in errors[0]
    assert client.lisa.said().count("Traceback") <= 1


def value(x):
    kinds = {
        bool: (ParameterType.PARAMETER_BOOL, "bool_value"),
        int: (ParameterType.PARAMETER_INTEGER, "integer_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
        str: (ParameterType.PARAMETER_STRING, "string_value"),
        list: (ParameterType.PARAMETER_STRING_ARRAY, "string_array_value"),
    }
    kind, name = kinds[type(x)]
    return ParameterValue(type=kind, **{name: x})


def put(client, name, x):
    """Set a parameter from outside: (whether it was taken, the reason)."""
    request = SetParameters.Request(parameters=[Parameter(name=name, value=value(x))])
    [result] = client.done(client.setter.call_async(request)).results
    return result.successful, result.reason


def test_every_parameter_is_declared_with_its_description_range_and_mutability(client):
    describer = client.node.create_client(DescribeParameters, f"{client.lisa.name}/describe_parameters")
    client.wait(describer.service_is_ready, "parameter service")
    names = [parameter.name for parameter in fields(Parameters)]
    described = client.done(describer.call_async(DescribeParameters.Request(names=names))).descriptors
    for parameter, descriptor in zip(fields(Parameters), described, strict=True):
        metadata = parameter.metadata
        assert descriptor.description == metadata["description"]
        assert descriptor.read_only is metadata["fixed"]
        assert ("read-only once" in descriptor.additional_constraints) is not metadata["live"]
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert [(r.from_value, r.to_value) for r in ranges] == ([metadata["between"]] if metadata["between"] else [])
        assert all(choice in descriptor.additional_constraints for choice in metadata["choices"])


def test_who_may_call_a_service_may_not_choose_the_code_that_runs(launch):
    client = launch(autostart="false")
    client.state(Status.UNCONFIGURED, "unconfigured node")
    client.meet()
    assert put(client, "model", "/models/another") == (True, "")
    successful, reason = put(client, "model", "os:abort")
    assert (successful, "which is code" in reason, "start the node with it" in reason) == (False, True, True)
    successful, reason = put(client, "tracker", "os:abort")
    assert (successful, "read-only" in reason) == (False, True)
    successful, reason = put(client, "options", ["no option"])
    assert (successful, "is not name=value" in reason) == (False, True)
    assert put(client, "options", ["family=lisa"]) == (True, "")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("model", "http://thief:8000", "model is 'http://thief:8000', a server; who calls a service may not choose"),
        ("model", "HTTPS://thief", "model is 'HTTPS://thief', a server"),
        ("options", ["endpoint=http://thief/v1"], "option endpoint is 'http://thief/v1'; who calls a service may not"),
    ],
)
def test_who_may_call_a_service_may_not_choose_where_frames_go(name, value, says):
    started = Parameters().changed({"model": "http://box:8000", "options": ("endpoint=http://box/v1",)})
    with pytest.raises(ConfigError, match=says):
        change(started, [RosParameter(name, value=value)], configured=False)
    kept = change(started, [RosParameter("model", value="http://box:8000")], configured=False)
    assert kept == started
    folder = change(started, [RosParameter("model", value="/models/lisa")], configured=False)
    assert folder.model == "/models/lisa"


def test_settings_of_lisa_become_options_of_the_engine():
    values = Parameters(options=("", "family=lisa"), conversation="v1", vision_tower="/clip")
    assert values.engine_options == {"family": "lisa", "conversation": "v1", "vision_tower": "/clip"}
    assert Parameters().engine_options == {}


def test_a_node_without_torch_says_at_once_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])))
    node = NodeProcess(tmp_path, model='""')
    assert node.process.wait(30) == 2
    [line] = [line for line in node.said().splitlines() if line]
    assert line.startswith("lisa_node: the engine 'lisa")
    assert "needs torch, which is not installed; pip install torch" in line
    other = NodeProcess(tmp_path)  # an engine that works without it
    wait_for(lambda: "ready: stand-in" in other.said(), "ready node")
    other.stop()


def test_a_live_parameter_changes_at_once(client):
    image = stamped(client.node, scene())
    client.wait(client.setter.service_is_ready, "parameter service")
    assert put(client, "max_command_length", 5) == (True, "")
    refused = client.call("the box", image)
    assert (refused.status, "at most 5" in refused.message) == (Segmentation.INVALID_COMMAND, True)
    assert put(client, "max_command_length", 2000)[0]
    client.works()


@pytest.mark.parametrize(
    ("name", "x", "says"),
    [
        ("timeout_s", -5.0, "timeout_s"),
        ("timeout_s", "soon", "timeout_s"),
        ("queue_size", 5000, "queue_size"),
        ("device", "cuda", "read-only"),
        ("precision", "fp8", "read-only"),
        ("qos_overrides./x.subscription.depth", 3, ""),
    ],
)
def test_what_cannot_be_set_is_refused_with_the_reason_and_nothing_changes(client, name, x, says):
    client.wait(client.setter.service_is_ready, "parameter service")
    successful, reason = put(client, name, x)
    assert not successful
    assert says in reason
    [now] = client.done(client.getter.call_async(GetParameters.Request(names=["timeout_s"]))).values
    assert now.double_value == 60.0
    client.works()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'; choose one of"),
        ({"timeout_s": "-1.0"}, "timeout_s"),
        ({"queue_size": "lots"}, "queue_size"),
        ({"image_transport": "theora"}, "image_transport is 'theora'; choose one of raw, compressed"),
    ],
)
def test_a_node_started_with_a_wrong_value_says_so_and_ends(tmp_path, parameters, says):
    node = NodeProcess(tmp_path, **parameters)
    assert node.process.wait(30) == 2
    assert says in node.said()
    assert "Traceback" not in node.said()


def test_qos_may_be_overridden_from_outside(launch):
    client = launch(**{"qos_overrides.~/mask.publisher.depth": "7"})
    client.ready()
    names = [
        f"qos_overrides.{client.lisa.namespace}/image.subscription.depth",
        f"qos_overrides.{client.lisa.name}/mask.publisher.depth",
    ]
    values = client.done(client.getter.call_async(GetParameters.Request(names=names))).values
    assert [value.integer_value for value in values] == [1, 7]


def test_a_compressed_camera_is_understood(launch):
    import cv2
    from sensor_msgs.msg import CompressedImage

    client = launch(image_transport="compressed")
    client.ready()
    client.node.destroy_publisher(client.images)
    camera = client.node.create_publisher(CompressedImage, "image", 1)
    client.wait(lambda: camera.get_subscription_count() > 0, "subscription")

    def look(data):
        image = CompressedImage(format="jpeg", data=data)
        image.header.stamp.sec = 7
        camera.publish(image)
        return client.say("the box")

    jpeg = cv2.imencode(".jpg", scene())[1].tobytes()
    answer = client.wait(lambda: (a := look(jpeg)).status == Segmentation.SUCCESS and a, "answer")
    assert (answer.header.stamp.sec, len(answer.masks)) == (7, 1)
    damaged = client.wait(lambda: (a := look(jpeg[:50])).status == Segmentation.INVALID_IMAGE and a, "refusal")
    assert "JPEG" in damaged.message
    client.state(Status.READY, "ready node")
