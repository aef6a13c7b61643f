"""What holds for any engine behind the node, over DDS.

    python -m pytest test/ros/test_any_engine.py --engine my_engine:load --engine-command "the cup" \\
        --engine-absent "the tyre" --engine-picture kitchen.jpg

``--engine`` is what the parameter ``model`` takes: a folder, a URL or ``package.module:callable``. Without a picture
the engine sees a red rectangle on dark ground. Only the default engine must find it; any engine must give an answer
whose parts agree, and must not take the node along where something goes wrong.
"""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from depth_camera import BOX_M, DepthCamera
from film import Film, iou, texture, whole
from geometry_msgs.msg import Point32
from PIL import Image as Picture
from robot import SIZE, TRUTH, Client, pixels_of, stamp, stamped
from sensor_msgs.msg import Image, RegionOfInterest
from std_srvs.srv import Trigger

from lisa_ros.msg import Mask, Segmentation, Status, TrackedMask, TrackedMasks

RED, DARK = (220, 40, 40), (30, 30, 30)
LOAD_S = 120.0
ANSWERED = (Segmentation.SUCCESS, Segmentation.NOT_FOUND)
WAITING = 4  # queue_size
DEFAULT_ENGINE = "colour_engine:load"  # examples/colour_engine.py


@dataclass
class Subject:
    """The engine under test, and what it is asked.

    Args:
        picture: (H, W, 3) uint8.
        truth: (H, W) bool where the mask of ``command`` must be; None where nobody knows.
        absent: What is not in the picture; empty where nobody knows.
    """

    model: str
    options: list[str]
    command: str
    absent: str
    picture: np.ndarray
    truth: np.ndarray | None


def red_rectangle() -> np.ndarray:
    picture = np.full((*SIZE, 3), DARK, np.uint8)
    picture[TRUTH] = RED
    return picture


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest) -> Subject:
    option = request.config.getoption
    default, picture = not option("--engine"), option("--engine-picture")
    return Subject(
        model=option("--engine") or DEFAULT_ENGINE,
        options=option("--engine-option"),
        command=option("--engine-command") or "the red thing",
        absent=option("--engine-absent") or ("the blue thing" if default and not picture else ""),
        picture=np.asarray(Picture.open(picture).convert("RGB")) if picture else red_rectangle(),
        truth=TRUTH if default and not picture else None,
    )


@pytest.fixture(scope="module")
def node(launch, subject: Subject) -> Client:
    options = {"options": f"[{', '.join(repr(o) for o in subject.options)}]"} if subject.options else {}
    # Frames of a busy machine are old, and a large engine thinks for long: neither is what is tested.
    client = launch(
        model=subject.model,
        queue_size=WAITING,
        max_image_age_s=3600.0,
        timeout_s=3600.0,
        stuck_worker_s=3600.0,
        **options,
    )
    client.ready(LOAD_S)
    client.listen("tracked", TrackedMasks)
    return client


@pytest.fixture
def client(node: Client) -> Client:
    """The node's client, with nothing heard yet. The node has survived the tests before."""
    node.ready(LOAD_S)
    node.view = None
    for topic, messages in node.heard.items():
        if topic != "status":
            messages.clear()
    return node


def image_of(client: Client, pixels: np.ndarray) -> Image:
    return stamped(client.node, np.ascontiguousarray(pixels))


def full(mask: Mask, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool."""
    image, roi = np.zeros(size, bool), mask.roi
    window = image[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width]
    window[:] = pixels_of(mask.pixels) > 0
    return image


def assert_consistent(result: Segmentation, size: tuple[int, int], compact: bool = False) -> None:
    """The parts of an answer agree, whatever the engine."""
    assert result.status in ANSWERED, result.message
    assert (result.status == Segmentation.SUCCESS) == bool(result.masks)
    assert [mask.label for mask in result.masks] == sorted({mask.label for mask in result.masks})
    for mask in result.masks:
        assert_mask_consistent(mask, result, size, compact)
    assert min(result.encode_s, result.generate_s, result.decode_s, result.first_mask_s) >= 0
    assert result.total_s > 0
    assert result.model
    assert result.precision


def assert_mask_consistent(mask: Mask, result: Segmentation, size: tuple[int, int], compact: bool) -> None:
    roi = mask.roi
    assert 1 <= mask.label <= 255
    assert roi.width > 0
    assert roi.height > 0
    assert roi.x_offset + roi.width <= size[1]
    assert roi.y_offset + roi.height <= size[0]
    assert 0 < mask.area <= roi.width * roi.height
    assert 0 <= mask.score <= 1
    assert roi.x_offset <= mask.centroid_px.x < roi.x_offset + roi.width
    assert roi.y_offset <= mask.centroid_px.y < roi.y_offset + roi.height
    assert len(mask.text_begin) == len(mask.text_end)
    for begin, end in zip(mask.text_begin, mask.text_end, strict=True):
        assert 0 <= begin <= end <= len(result.answer)
    if compact:
        assert len(mask.pixels.data) == 0
        return
    assert mask.pixels.header == result.header
    assert (mask.pixels.encoding, mask.pixels.height, mask.pixels.width) == ("mono8", roi.height, roi.width)
    crop = pixels_of(mask.pixels)
    assert set(np.unique(crop)) <= {0, 255}
    assert np.count_nonzero(crop) == mask.area
    assert crop[0].any() and crop[-1].any() and crop[:, 0].any() and crop[:, -1].any()  # the box is tight


def assert_right_place(result: Segmentation, truth: np.ndarray | None) -> None:
    if truth is not None:
        assert result.status == Segmentation.SUCCESS, result.message
        union = np.any([full(mask, truth.shape) for mask in result.masks], axis=0)
        assert iou(union, truth) >= 0.95


def topic_about(client: Client, topic: str, header):
    return client.wait(lambda: [m for m in client.heard[topic] if m.header == header], f"message on {topic}")[-1]


def assert_works(client: Client, subject: Subject) -> Segmentation:
    """The node answers a usual command as if nothing had happened."""
    client.ready(LOAD_S)
    result = client.call(subject.command, image_of(client, subject.picture)).segmentation
    assert_consistent(result, subject.picture.shape[:2])
    assert_right_place(result, subject.truth)
    return result


@contextmanager
def worker_stopped(client: Client):
    """What is asked meanwhile stays unanswered, whatever the engine's speed."""
    worker = client.lisa.worker
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield worker
    finally:
        if worker.is_running():
            os.kill(worker.pid, signal.SIGCONT)


def queued(client: Client, count: int) -> None:
    client.wait(lambda: client.heard["status"][-1].queued == count, f"{count} commands in the queue")
    client.wait(lambda: client.heard["status"][-1].state == Status.BUSY, "busy node")


# --- topic, action, service


def test_a_command_on_the_topic_is_answered_about_the_cameras_frame(client: Client, subject: Subject) -> None:
    size = subject.picture.shape[:2]
    client.show(subject.picture)
    result = client.say(subject.command)
    assert_consistent(result, size)
    assert_right_place(result, subject.truth)
    assert (result.command, stamp(result.header) in client.shown) == (subject.command, True)
    mask, labels = (topic_about(client, topic, result.header) for topic in ("mask", "labels"))
    union = np.any([full(mask, size) for mask in result.masks], axis=0) if result.masks else np.zeros(size, bool)
    np.testing.assert_array_equal(pixels_of(mask), np.where(union, 255, 0))
    np.testing.assert_array_equal(pixels_of(labels) > 0, union)
    for one in result.masks:
        assert not (pixels_of(labels)[~full(one, size)] == one.label).any()


def test_the_service_answers_about_the_image_it_gets(client: Client, subject: Subject) -> None:
    image = image_of(client, subject.picture)
    answer = client.call(subject.command, image)
    assert answer.status == answer.segmentation.status
    assert_consistent(answer.segmentation, subject.picture.shape[:2])
    assert_right_place(answer.segmentation, subject.truth)
    assert answer.segmentation.header == image.header
    assert answer.segmentation == client.heard_result(answer.segmentation.request_id)


def test_the_action_gives_feedback_and_the_same_answer(client: Client, subject: Subject) -> None:
    image = image_of(client, subject.picture)
    goal = client.goal(subject.command, image)
    status, result = goal.result()
    assert (status, result.status) == (GoalStatus.STATUS_SUCCEEDED, result.segmentation.status)
    assert_consistent(result.segmentation, subject.picture.shape[:2])
    assert_right_place(result.segmentation, subject.truth)
    assert result.segmentation.header == image.header
    assert result.segmentation == client.heard_result(goal.request_id)
    labels = [mask.label for feedback in goal.feedback for mask in feedback.masks]
    assert set(labels) <= {mask.label for mask in result.segmentation.masks}


def test_the_same_question_twice_has_the_same_answer(client: Client, subject: Subject) -> None:
    image = image_of(client, subject.picture)
    first, second = (client.call(subject.command, image).segmentation for _ in range(2))
    assert (first.status, first.answer) == (second.status, second.answer)
    assert first.masks == second.masks


def test_what_is_not_there_is_not_found(client: Client, subject: Subject) -> None:
    if not subject.absent:
        pytest.skip("--engine-absent names what is not in the picture")
    client.show(subject.picture)
    result = client.say(subject.absent)
    assert_consistent(result, subject.picture.shape[:2])
    assert (result.status, list(result.masks)) == (Segmentation.NOT_FOUND, [])
    assert not pixels_of(topic_about(client, "mask", result.header)).any()


def test_a_frame_of_any_shape_is_answered_or_refused(client: Client, subject: Subject) -> None:
    for size in ((1, 1), (3, 500), (500, 3), (77, 131)):
        answer = client.call(subject.command, image_of(client, np.full((*size, 3), RED, np.uint8)))
        if answer.status != Segmentation.INVALID_IMAGE:
            assert_consistent(answer.segmentation, size)
    assert_works(client, subject)


# --- targets, points, box, compact


def test_each_target_gets_its_masks_or_is_absent(client: Client, subject: Subject) -> None:
    targets = [subject.command, subject.absent or "zebra crossing"]
    result = client.goal("", image_of(client, subject.picture), targets=targets).result()[1].segmentation
    assert_consistent(result, subject.picture.shape[:2])
    assert set(result.absent) <= set(targets)
    assert all(mask.phrase for mask in result.masks)
    assert result.masks or set(result.absent) == set(targets)
    if subject.absent:
        assert subject.absent in result.absent
    if subject.truth is not None:
        assert list(result.absent) == [subject.absent]
        assert_right_place(result, subject.truth)
        for mask in result.masks:
            words = [result.answer[b:e] for b, e in zip(mask.text_begin, mask.text_end, strict=True)]
            assert mask.phrase == subject.command and all(word in mask.phrase for word in words)


@pytest.mark.parametrize("targets", [["cup"] * 256, ["cup", " "]], ids=["256 targets", "a blank target"])
def test_targets_that_cannot_be_asked_are_refused(client: Client, subject: Subject, targets) -> None:
    answer = client.call("", image_of(client, subject.picture), targets=targets)
    assert answer.status == Segmentation.INVALID_COMMAND
    assert "target" in answer.message
    assert_works(client, subject)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"points": [Point32(x=160.0, y=90.0)], "point_labels": [1]}, "points"),
        ({"box": RegionOfInterest(x_offset=100, y_offset=60, width=120, height=60)}, "box"),
    ],
    ids=["points", "box"],
)
def test_points_and_a_box_are_used_or_refused_with_what_is_supported(client, subject, fields, what) -> None:
    for ask in (client.call, lambda *a, **k: client.goal(*a, **k).result()[1]):
        answer = ask(subject.command, image_of(client, subject.picture), **fields)
        if answer.status != Segmentation.INVALID_COMMAND:
            assert_consistent(answer.segmentation, subject.picture.shape[:2])
        else:
            assert what in answer.message
            assert "supports" in answer.message
    assert_works(client, subject)


def test_a_compact_answer_has_its_pixels_on_the_topic_only(client: Client, subject: Subject) -> None:
    size = subject.picture.shape[:2]
    image = image_of(client, subject.picture)
    complete = client.call(subject.command, image).segmentation
    for ask in (client.call, lambda *a, **k: client.goal(*a, **k).result()[1]):
        image = image_of(client, subject.picture)
        result = ask(subject.command, image, compact=True).segmentation
        assert_consistent(result, size, compact=True)
        assert [mask.roi for mask in result.masks] == [mask.roi for mask in complete.masks]
        shown = pixels_of(topic_about(client, "labels", image.header))
        for mask in complete.masks:
            assert ((shown == mask.label) <= full(mask, size)).all()
        assert np.count_nonzero(shown) == np.count_nonzero(np.any([full(m, size) for m in complete.masks], axis=0))


# --- sessions


def test_a_session_goes_on_and_is_cleared(client: Client, subject: Subject) -> None:
    image = image_of(client, subject.picture)

    def answers(count: int) -> list[str]:
        results = [client.call(subject.command, image, session="kitchen").segmentation for _ in range(count)]
        for result in results:
            assert_consistent(result, subject.picture.shape[:2])
        return [result.answer for result in results]

    first, *_ = answers(3)
    assert client.done(client.clear.call_async(Trigger.Request())).success
    assert answers(1) == [first]


# --- tracking and depth


class RedFilm(Film):
    """A red thing that moves over grey ground."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._ground = texture(1, (480, 640), (20, 20, 20), (120, 120, 120))
        self._thing = texture(2, (120, 140), (165, 0, 0), (255, 90, 90))


def tracked_of(client: Client, answer: Segmentation, frames: set[tuple[int, int]]) -> list[TrackedMasks]:
    """What follows an answer, checked for any engine: each message is about a frame, each mask one of the answer's."""
    followed = [message for message in client.heard["tracked"] if message.request_id == answer.request_id]
    stamps = [stamp(message.header) for message in followed]
    assert stamps == sorted(set(stamps))
    assert set(stamps) <= frames
    assert {message.header.frame_id for message in followed} <= {"camera_optical"}
    assert {one.mask.label for message in followed for one in message.masks} <= {mask.label for mask in answer.masks}
    return followed


def seen(followed: list[TrackedMasks]) -> list[tuple[TrackedMasks, TrackedMask]]:
    return [(message, one) for message in followed for one in message.masks if one.state == TrackedMask.TRACKING]


def test_masks_stay_where_nothing_moves(client: Client, subject: Subject) -> None:
    size = subject.picture.shape[:2]
    client.show(subject.picture)
    answer = client.say(subject.command)
    assert_consistent(answer, size)
    if answer.status == Segmentation.NOT_FOUND and subject.truth is None:
        pytest.skip(f"{subject.model} finds no {subject.command!r} in the picture")
    client.wait(lambda: len(seen(tracked_of(client, answer, set(client.shown)))) >= 10, "tracked masks")
    there = {mask.label: full(mask, size) for mask in answer.masks}
    followed = seen(tracked_of(client, answer, set(client.shown)))
    assert np.mean([iou(whole(one, size), there[one.mask.label]) for _, one in followed]) >= 0.8


def test_masks_follow_what_moves(client: Client, subject: Subject) -> None:
    film = RedFilm(client)
    try:
        film.run(0.3)
        answer = client.say(subject.command)
        assert_consistent(answer, film.size)
        if answer.status == Segmentation.NOT_FOUND and subject.truth is None:
            pytest.skip(f"{subject.model} finds no {subject.command!r} in the film of a red thing")
        client.wait(lambda: tracked_of(client, answer, set(film.truth)), "tracked masks")
        film.run(1.5)
        followed = seen(tracked_of(client, answer, set(film.truth)))
        if subject.truth is not None:
            assert np.mean([iou(whole(one, film.size), film.truth[stamp(m.header)]) for m, one in followed]) >= 0.8
    finally:
        film.close()


def test_masks_are_measured_where_there_is_depth(client: Client, subject: Subject) -> None:
    if subject.picture.shape[:2] != SIZE:
        pytest.skip(f"the depth camera of this test has {SIZE[1]} x {SIZE[0]} pixels")
    camera = DepthCamera(client)
    try:
        client.show(subject.picture)
        client.wait(lambda: client.say(subject.command).objects or subject.truth is None, "objects in metres")
        result = client.say(subject.command)
        assert_consistent(result, SIZE)
        if subject.truth is not None:
            assert result.objects[0].centroid.z == pytest.approx(BOX_M, abs=0.005)
        assert [one.label for one in result.objects] in ([], [mask.label for mask in result.masks])
    finally:
        camera.close()


# --- what goes wrong


def test_a_worker_that_is_killed_costs_one_command(client: Client, subject: Subject) -> None:
    image = image_of(client, subject.picture)
    with worker_stopped(client) as worker:
        answer = client.call_async(subject.command, image)
        queued(client, 0)
        client.heard["status"].clear()
        worker.kill()
        lost = client.done(answer)
    assert (lost.status, "SIGKILL" in lost.message) == (Segmentation.INTERNAL_ERROR, True), lost.message
    client.state(Status.RESTARTING, "restart")
    assert_works(client, subject)
    assert client.lisa.worker.pid != worker.pid


def test_a_command_that_waits_or_runs_is_canceled(client: Client, subject: Subject) -> None:
    with worker_stopped(client):
        running = client.goal(subject.command, image_of(client, subject.picture))
        waiting = client.goal(subject.command, image_of(client, subject.picture))
        queued(client, 1)
        waiting.cancel()
        assert waiting.result()[0] == GoalStatus.STATUS_CANCELED
        running.cancel()
    status, result = running.result()
    assert (status, result.status) in (
        (GoalStatus.STATUS_CANCELED, Segmentation.CANCELED),
        (GoalStatus.STATUS_SUCCEEDED, Segmentation.SUCCESS),  # it was quicker, once the worker ran again
        (GoalStatus.STATUS_SUCCEEDED, Segmentation.NOT_FOUND),
    )
    assert_works(client, subject)


def test_a_full_queue_is_busy_and_every_command_is_answered_once(client: Client, subject: Subject) -> None:
    image = image_of(client, subject.picture)
    with worker_stopped(client):
        asked = [client.call_async(subject.command, image) for _ in range(1 + WAITING)]
        queued(client, WAITING)
        assert client.call(subject.command, image).status == Segmentation.BUSY
        assert not any(answer.done() for answer in asked)
    for answer in asked:
        assert_consistent(client.done(answer).segmentation, subject.picture.shape[:2])
    client.wait(lambda: len(client.heard["result"]) == 2 + WAITING, "results")
    assert len({result.request_id for result in client.heard["result"]}) == 2 + WAITING
    assert_works(client, subject)


@pytest.mark.parametrize(
    ("command", "says"),
    [("", "empty"), ("word " * 20_000, "at most"), ("the \x07 box", "U+0007")],
    ids=["empty", "100,000 characters", "control character"],
)
def test_what_is_no_command_is_refused(client: Client, subject: Subject, command: str, says: str) -> None:
    answer = client.call(command, image_of(client, subject.picture))
    assert (answer.status, says in answer.message) == (Segmentation.INVALID_COMMAND, True), answer.message
    assert_works(client, subject)


@pytest.mark.parametrize("command", ["das rote Ding, bitte 🙏", "赤いもの", "<s> [SEG] <image> </s>", "word " * 390])
def test_any_text_is_answered_or_too_long_for_the_engine(client: Client, subject: Subject, command: str) -> None:
    answer = client.call(command, image_of(client, subject.picture))
    if len(command) > 1000 and answer.status == Segmentation.INVALID_COMMAND:
        assert "short" in answer.message
    else:
        assert_consistent(answer.segmentation, subject.picture.shape[:2])
    assert_works(client, subject)


def test_what_is_no_image_is_refused(client: Client, subject: Subject) -> None:
    for changes in ({"step": 1}, {"encoding": "nonsense"}, {"width": 2**31}):
        image = image_of(client, subject.picture)
        for name, value in changes.items():
            setattr(image, name, value)
        assert client.call(subject.command, image).status == Segmentation.INVALID_IMAGE
    assert_works(client, subject)


# --- loading


def test_an_option_that_the_engine_does_not_know_is_named(launch, subject: Subject) -> None:
    client = launch(model=subject.model, options="[no_such_option=1]")
    status = client.state(Status.ERROR, "error state", LOAD_S)
    assert "no_such_option" in status.message
    assert client.call(subject.command, image_of(client, subject.picture)).status == Segmentation.NOT_READY
