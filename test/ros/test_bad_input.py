"""Whatever comes in gets its status and a message that helps, at every endpoint, and the next command works."""

import numpy as np
import pytest
from machine_speed import limit
from robot import SIZE, scene, stamped
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from lisa_ros.msg import Segmentation
from lisa_ros.plain_text import escaped
from lisa_ros.ros.messages import image_message

COMMANDS = {
    "empty": ("", "empty"),
    "blank": (" \t\n ", "empty"),
    "100,000 characters": ("word " * 20_000, "at most 2000"),
    "control character": ("the \x07 box", "U+0007 at position 4"),
    "null character": ("the box\x00", None),
    "escape sequence": ("\x1b[31mthe box", "U+001B"),
    "C1 control character": ("the\x9bbox", "U+009B"),
}


def by_topic(client, command):
    client.show(scene())
    result = client.say(command)
    return result.status, result.message


def by_action(client, command):
    result = client.goal(command, stamped(client.node, scene())).result()[1]
    assert (result.status, result.message) == (result.segmentation.status, result.segmentation.message)
    return result.status, result.message


def by_service(client, command):
    answer = client.call(command, stamped(client.node, scene()))
    assert (answer.status, answer.message) == (answer.segmentation.status, answer.segmentation.message)
    return answer.status, answer.message


ENDPOINTS = {"topic": by_topic, "action": by_action, "service": by_service}


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
@pytest.mark.parametrize(("command", "says"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_is_no_command_is_refused(client, endpoint, command, says):
    if says is None:
        # A null character ends the string on its way through DDS in C: what arrives is a usual command.
        assert endpoint(client, command)[0] in (Segmentation.SUCCESS, Segmentation.INVALID_COMMAND)
    else:
        status, message = endpoint(client, command)
        assert status == Segmentation.INVALID_COMMAND
        assert says in message
    client.works()


def by_target(client, word):
    answer = client.call("", stamped(client.node, scene()), targets=["the box", word])
    return answer.status, answer.message


def by_session(client, word):
    answer = client.call("the box", stamped(client.node, scene()), session=word)
    return answer.status, answer.message


def by_camera(client, word):
    answer = client.call("the box", stamped(client.node, scene()), camera=word)
    return answer.status, answer.message


@pytest.mark.parametrize("field", [by_target, by_session, by_camera])
def test_a_control_character_in_any_field_is_refused_and_never_printed_raw(client, field):
    status, message = field(client, "\x1b]0;owned\x07")
    assert status == Segmentation.INVALID_COMMAND
    assert "\x1b" not in message
    client.works()
    said = client.lisa.log.read_bytes()
    assert b"owned" not in said or b"\\x1b]0;owned" in said
    assert b"\x07" not in said
    assert b"\x1b]0" not in said


def test_what_an_engine_or_a_peer_writes_reaches_the_log_escaped():
    assert escaped("a\x1b[31mb\x9bc\u202ed\ud800") == "a\\x1b[31mb\\x9bc\\u202ed\\ud800"
    assert escaped("Traceback:\n\tline, größer, 杯") == "Traceback:\n\tline, größer, 杯"


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_special_tokens_in_a_command_are_text(client, endpoint):
    assert endpoint(client, "<s> [SEG] <image> </s> <im_start> the box")[0] == Segmentation.SUCCESS


@pytest.mark.parametrize("endpoint", ENDPOINTS.values(), ids=ENDPOINTS)
def test_line_breaks_in_a_command_are_spaces(client, endpoint):
    assert endpoint(client, "the\r\n\tbox")[0] == Segmentation.SUCCESS
    assert client.wait(lambda: client.heard["result"], "result")[-1].command == "the box"


def test_a_session_id_and_a_timeout_that_cannot_be_meant_are_refused(client):
    image = stamped(client.node, scene())
    answer = client.call("the box", image, session="s" * 300)
    assert (answer.status, "300 characters" in answer.message) == (Segmentation.INVALID_COMMAND, True)
    goal = client.goal("the box", image, timeout=_duration(-1))
    assert goal.result()[1].status == Segmentation.INVALID_COMMAND
    client.works()


def _duration(seconds):
    from builtin_interfaces.msg import Duration

    return Duration(sec=seconds)


def image(**changes) -> Image:
    message = Image(height=SIZE[0], width=SIZE[1], encoding="rgb8", step=3 * SIZE[1])
    message.header.frame_id = "camera_optical"
    message.data.frombytes(bytes(changes.pop("size", 3 * SIZE[0] * SIZE[1])))
    for name, value in changes.items():
        setattr(message, name, value)
    return message


IMAGES = {
    "step too small": (image(step=100), "step 100"),
    "step of another width": (image(step=1000), "step"),
    "step zero": (image(step=0), "step 0"),
    "too little data": (image(size=1000), "1000 bytes"),
    "no data": (image(size=0), "0 bytes"),
    "too much data": (image(size=300_000), "300000 bytes"),
    "zero height": (image(height=0), "empty"),
    "zero width": (image(width=0), "empty"),
    "unknown encoding": (image(encoding="32FC1", step=4 * SIZE[1], size=4 * SIZE[0] * SIZE[1]), "32FC1"),
    "no encoding": (image(encoding=""), "''"),
    "1 x 1": (image(height=1, width=1, step=3, size=3), "1 x 1"),
    "12,000 x 9,000": (
        image(height=9000, width=12000, encoding="mono8", step=12000, size=108_000_000),
        "108000000 pix",
    ),
    "huge numbers": (image(height=2**32 - 1, width=2**32 - 1, step=2**32 - 1), "pixels"),
    "odd width of shared colours": (image(width=319, encoding="yuyv", step=638, size=638 * 240), "319 is odd"),
}


@pytest.mark.parametrize(("message", "says"), IMAGES.values(), ids=IMAGES)
def test_an_image_that_is_no_image_is_refused_in_a_request(client, message, says):
    answer = client.call("the box", message)
    assert answer.status == Segmentation.INVALID_IMAGE
    assert says in answer.message
    assert answer.segmentation.header == message.header
    client.works()


@pytest.mark.parametrize(("message", "says"), [i for n, i in IMAGES.items() if n != "12,000 x 9,000"])
def test_an_image_that_is_no_image_is_refused_from_the_camera(client, message, says):
    client.show(message)
    result = client.wait(
        lambda: (answer := client.say("the box")).status == Segmentation.INVALID_IMAGE and answer, "refused frame"
    )
    assert says in result.message
    assert not client.heard["mask"]
    client.view = None
    client.works()


def test_a_stamp_before_1970_is_taken_like_any_other(client):
    message = stamped(client.node, scene())
    message.header.stamp.sec = -5
    answer = client.call("the box", message)
    assert (answer.status, answer.message) == (Segmentation.SUCCESS, "")
    assert answer.segmentation.header == message.header
    assert answer.segmentation.image_age_s > 0


def test_a_bad_image_in_a_goal_is_refused(client):
    _, result = client.goal("the box", image(step=100)).result()
    assert result.status == Segmentation.INVALID_IMAGE
    client.works()


def test_a_camera_whose_frames_are_too_large_is_refused(launch):
    client = launch(max_image_pixels=str(SIZE[0] * SIZE[1] // 2))
    client.ready()
    too_large = {
        "76800 pixels": np.zeros(SIZE, np.uint8),
        "230": scene(),  # told by its bytes, and not even kept
    }
    for says, pixels in too_large.items():
        client.show(image_message(Header(), pixels, "rgb8" if pixels.ndim == 3 else "mono8"))
        result = client.wait(lambda says=says: (r := client.say("the box")) and says in r.message and r, says)
        assert result.status == Segmentation.INVALID_IMAGE
    client.show(scene()[::2, ::2].copy())
    client.wait(lambda: client.say("the box").status == Segmentation.SUCCESS, "answer about a small frame")


def test_no_image_at_all_says_where_one_is_expected(launch):
    client = launch()
    client.ready()
    result = client.say("the box")
    assert result.status == Segmentation.NO_IMAGE
    assert f"{client.lisa.namespace}/image" in result.message
    assert client.call("the box").status == Segmentation.NO_IMAGE
    assert client.goal("the box").result()[1].status == Segmentation.NO_IMAGE
    client.works()


def test_a_camera_that_stopped_is_no_image(launch):
    """Asked until it is so: a machine that stands still for 0.3 s makes any frame old."""
    client = launch(max_image_age_s=limit(0.3))
    client.ready()

    def answered(status):
        return client.wait(lambda: (r := client.say("the box")).status == status and r, f"answer of status {status}")

    client.show(scene())
    answered(Segmentation.SUCCESS)
    client.view = None
    assert "max_image_age_s" in answered(Segmentation.NO_IMAGE).message
    client.show(scene())
    answered(Segmentation.SUCCESS)
