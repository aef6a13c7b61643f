"""What is followed and when the engine is asked again, without DDS."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from robot import LIMIT_S, scene
from std_msgs.msg import Header

from lisa_ros.engine.api import Ask, Region, crop_mask
from lisa_ros.perception.tracking import State, Tracked
from lisa_ros.ros import follower
from lisa_ros.ros.follower import Follower, Sighting
from lisa_ros.ros.following import Following
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.requests import Frame, Result
from lisa_ros.runtime.status import Status


@pytest.fixture
def following():
    ignored = SimpleNamespace(publish=lambda message: None, get_subscription_count=lambda: 1)
    markers = SimpleNamespace(seen=lambda sighting: None, clear=lambda: None)
    overlay = SimpleNamespace(take=lambda sighting: None, is_wanted=False)
    following = Following(
        ignored, overlay, markers, lambda: Parameters(redetect_period_s=3600.0), lambda sighting: None
    )
    following.configure(lambda: None)
    yield following
    following.cleanup()


def start(following, ask, **fields):
    """Follow what was asked. Returns a function that makes a sighting of it, in doubt."""
    frame = Frame(Header(), scene(), camera="left")
    region = Region(crop_mask(scene()[:, :, 0] > 100, 1, 0.5), 0.5, "cup")
    following.frame_taken(frame)
    following.take_result(Result(Status.SUCCESS, "", "id", ask, frame.header, frame, regions=[region], **fields))
    tracked = [Tracked(region.mask, 0.1, State.UNCERTAIN)]
    return lambda: Sighting(following._followed, frame.header, tracked, wants_detection=True)


def test_a_redetection_is_an_ordinary_request_of_the_lowest_priority(following):
    in_doubt = start(following, Ask("the cups", explain=True, targets=("cup", "mug")))
    request = following.handle(in_doubt())
    assert (request.ask.text, request.ask.targets, request.ask.explain) == ("the cups", ("cup", "mug"), False)
    assert (request.background, request.camera, request.image, request.session) == (True, "left", None, "")
    assert following.handle(in_doubt()) is None  # not before the period is over


@pytest.mark.parametrize(("status", "again"), [(Status.BUSY, True), (Status.NOT_READY, True), (Status.TIMEOUT, False)])
def test_what_was_not_asked_is_asked_at_the_next_frame(following, status, again):
    in_doubt = start(following, Ask("the cup"))
    request = following.handle(in_doubt())
    request.on_result(Result(status, "later", request.request_id, request.ask))
    assert (following.handle(in_doubt()) is not None) == again


@pytest.mark.parametrize(
    ("ask", "session"),
    [(Ask("the cup", points=((1.0, 2.0),)), ""), (Ask("the cup", box=(1, 2, 3, 4)), ""), (Ask("the cup"), "talk")],
)
def test_a_point_a_box_or_a_conversation_is_not_asked_again(following, ask, session):
    assert following.handle(start(following, ask, session=session)()) is None


def test_an_image_of_the_caller_is_not_followed(following):
    frame = Frame(Header(), scene(), sent=True)
    region = Region(crop_mask(scene()[:, :, 0] > 100, 1, 0.5))
    following.frame_taken(frame)
    following.take_result(Result(Status.SUCCESS, "", "id", Ask("x"), frame.header, frame, regions=[region]))
    assert following._followed is None


def test_the_follower_wakes_when_the_depth_of_its_frame_comes(monkeypatch):
    monkeypatch.setattr(follower, "DEPTH_WAIT_S", 10 * LIMIT_S)
    waits, seen, depth = threading.Event(), threading.Event(), threading.Event()

    def awaits_depth(header):
        waits.set()
        return not depth.is_set()

    frame = SimpleNamespace(read=lambda: (Header(), scene()), awaits_depth=awaits_depth, at_s=0.0)
    sighting = SimpleNamespace(ended="")
    pursuit = SimpleNamespace(
        start=lambda followed, answered: None,
        follow=lambda header, rgb, at_s: sighting,
        measure=lambda sighting, frame: sighting,
        clear=lambda: None,
        close=lambda: None,
    )
    thread = Follower(lambda: pursuit, lambda sighting: seen.set())
    thread.start(SimpleNamespace(), SimpleNamespace(trail=()))
    thread.see(frame)
    assert waits.wait(LIMIT_S)
    assert not seen.is_set()
    depth.set()
    thread.depth_came()
    assert seen.wait(LIMIT_S)
    thread.close()


def test_nothing_in_the_nodes_process_polls(repository):
    files = [*(repository / "lisa_ros" / "ros").glob("*.py"), *(repository / "lisa_ros" / "runtime").glob("*.py")]
    assert len(files) > 20
    assert not [file.name for file in files if "sleep(" in file.read_text()]


def test_a_frame_is_shared_and_nobody_can_write_to_it(client):
    from robot import stamped

    from lisa_ros.ros.frame_store import FrameStore

    image = stamped(client.node, scene())
    frame = FrameStore(Parameters, lambda: "image", lambda: 0.0).take(image)
    with pytest.raises(ValueError, match="read-only"):
        frame.rgb[0, 0, 0] = 1
    assert np.shares_memory(frame.rgb, np.frombuffer(image.data, np.uint8))


def test_a_standing_command_does_not_end_what_a_person_asked_for(following) -> None:
    start(following, Ask("the cup"), source="action")
    persons = following._followed
    start(following, Ask("the bottle"), source="watch")
    assert following._followed is persons
    following.clear(None, SimpleNamespace())
    start(following, Ask("the bottle"), source="watch")
    assert following._followed.command == "the bottle"
    start(following, Ask("the bowl"), source="watch")
    assert following._followed.command == "the bowl"
