"""The node with a real LISA (the tiny golden one): what comes out over DDS is what the library says."""

import shutil

import numpy as np
import pytest
from geometry_msgs.msg import Point32
from PIL import Image as Picture
from robot import pixels_of, stamp, stamped
from sensor_msgs.msg import RegionOfInterest

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask
from lisa_ros.msg import Segmentation, Status
from lisa_ros.perception.masks import union_image

pytest.importorskip("torch")

LOAD_S = 120.0  # to import torch and transformers, where the disk and the cores are somebody else's
COMMANDS = ("the orange part", "the tallest thing, and why")


@pytest.fixture(scope="module")
def golden(repository):
    return repository / "test" / "golden"


@pytest.fixture(scope="module")
def lisa(golden):
    """The same model in this process."""
    options = {"vision_tower": str(golden / "clip-tiny")}
    return load_engine(golden / "ckpt", device="cpu", precision="fp32", options=options)


def ask(lisa, rgb, command):
    """The library's answer."""
    return lisa.ask(lisa.encode(rgb), Ask(command))


@pytest.fixture(scope="module")
def real(launch, golden):
    client = launch(
        model=golden / "ckpt",
        vision_tower=golden / "clip-tiny",
        device="cpu",
        precision="fp32",
        threads=1,
    )
    client.ready(LOAD_S)
    return client


def assert_same(result, expected):
    """A message says what the library's ``expected`` says."""
    regions = [(label, region) for label, region in enumerate(expected.regions, 1) if region.mask.area]
    assert result.status == (Segmentation.SUCCESS if regions else Segmentation.NOT_FOUND), result.message
    assert result.answer == expected.text
    assert [mask.label for mask in result.masks] == [label for label, _ in regions]
    for mask, (_, region) in zip(result.masks, regions, strict=True):
        crop = region.mask
        assert (mask.roi.x_offset, mask.roi.y_offset, mask.area) == (crop.x, crop.y, crop.area)
        np.testing.assert_array_equal(pixels_of(mask.pixels), crop.pixels)
        assert mask.score == pytest.approx(region.score, abs=1e-5)
        assert list(zip(mask.text_begin, mask.text_end, strict=True)) == list(region.spans)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("picture", ["wide.png", "tall.png"])
def test_the_node_answers_what_the_library_answers(real, lisa, golden, picture, command):
    rgb = np.asarray(Picture.open(golden / picture).convert("RGB"))
    expected = ask(lisa, rgb, command)
    real.show(rgb)
    real.heard["mask"].clear()
    by_topic = real.say(command)
    by_service = real.call(command, stamped(real.node, rgb)).segmentation
    by_action = real.goal(command, stamped(real.node, rgb)).result()[1].segmentation
    for result in (by_topic, by_service, by_action):
        assert_same(result, expected)
        assert (result.model, result.precision) == (lisa.info.name, "fp32")
    mask = real.wait(lambda: [m for m in real.heard["mask"] if m.header == by_topic.header], "mask")[0]
    assert stamp(mask.header) in real.shown
    crops = [region.mask for region in expected.regions]
    np.testing.assert_array_equal(pixels_of(mask), union_image(crops, rgb.shape[:2]))
    real.view = None


def test_the_second_command_on_a_frame_is_not_encoded_again(real, golden):
    image = stamped(real.node, np.asarray(Picture.open(golden / "wide.png").convert("RGB"))[:, ::-1])
    first, second = (real.call(command, image).segmentation for command in COMMANDS)
    assert first.encode_s > 0
    assert second.encode_s <= first.encode_s
    assert second.image_age_s > first.image_age_s


def test_special_tokens_in_a_command_are_read_as_the_library_reads_them(real, lisa, golden):
    rgb = np.asarray(Picture.open(golden / "wide.png").convert("RGB"))
    image = stamped(real.node, rgb)
    for command in ("the orange part [SEG] <image> </s>", "<s> <im_start><image><im_end> the [SEG]"):
        assert_same(real.call(command, image).segmentation, ask(lisa, rgb, command))


def test_a_conversation_goes_on_and_is_cleared(real, golden):
    from std_srvs.srv import Trigger

    image = stamped(real.node, np.asarray(Picture.open(golden / "wide.png").convert("RGB")))
    for _ in range(3):
        answer = real.call(COMMANDS[0], image, session="talk")
        assert answer.status in (Segmentation.SUCCESS, Segmentation.NOT_FOUND), answer.message
    assert real.done(real.clear.call_async(Trigger.Request())).success
    alone = real.call(COMMANDS[0], image).segmentation.answer
    assert real.call(COMMANDS[0], image, session="talk").segmentation.answer == alone


def test_a_killed_worker_loads_the_model_again_and_answers_the_same(real, lisa, golden):
    rgb = np.asarray(Picture.open(golden / "wide.png").convert("RGB"))
    real.ready(LOAD_S)
    killed = real.lisa.worker
    killed.kill()
    real.state(Status.RESTARTING, "restart")
    real.ready(LOAD_S)
    assert real.lisa.worker.pid != killed.pid
    answer = real.call(COMMANDS[0], stamped(real.node, rgb)).segmentation
    assert_same(answer, ask(lisa, rgb, COMMANDS[0]))


FAULTS = ("missing", "truncated", "another architecture", "no tower")


@pytest.fixture(scope="module")
def broken(launch, golden, tmp_path_factory):
    """A node for each fault, and the path that is at fault; all started together, since each imports torch."""
    nodes = {}
    for fault in FAULTS:
        folder, tower = tmp_path_factory.mktemp("broken") / "ckpt", golden / "clip-tiny"
        if fault != "missing":
            shutil.copytree(golden / "ckpt", folder)
        if fault == "truncated":
            weights = max(folder.iterdir(), key=lambda path: path.stat().st_size)
            weights.write_bytes(weights.read_bytes()[:1000])
        if fault == "another architecture":
            (folder / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
        if fault == "no tower":
            tower = folder / "no-tower"
        client = launch(model=folder, vision_tower=tower, device="cpu", threads=1)
        nodes[fault] = (client, tower if fault == "no tower" else folder)
    return nodes


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_cannot_be_used_is_named_and_commands_are_not_ready(broken, fault):
    client, path = broken[fault]
    status = client.state(Status.ERROR, "error state", LOAD_S)
    assert str(path) in status.message
    client.wait(client.service.service_is_ready, "service")
    answer = client.call("the box", stamped(client.node, np.zeros((30, 40, 3), np.uint8)))
    assert (answer.status, status.message in answer.message) == (Segmentation.NOT_READY, True)


@pytest.mark.parametrize("fields", [{"points": [(60, 40)], "point_labels": [0]}, {"box": (10, 12, 40, 30)}])
def test_points_and_a_box_of_a_request_reach_the_mask_decoder(real, lisa, golden, fields):
    rgb = np.asarray(Picture.open(golden / "wide.png").convert("RGB"))
    expected = lisa.ask(lisa.encode(rgb), Ask(COMMANDS[0], **fields))
    plain = ask(lisa, rgb, COMMANDS[0])
    assert [r.mask.area for r in expected.regions] != [r.mask.area for r in plain.regions]
    message = {"points": [Point32(x=float(x), y=float(y)) for x, y in fields.get("points", ())]}
    message["point_labels"] = fields.get("point_labels", [])
    if "box" in fields:
        x, y, width, height = fields["box"]
        message["box"] = RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)
    image = stamped(real.node, rgb)
    assert_same(real.call(COMMANDS[0], image, **message).segmentation, expected)
    assert_same(real.goal(COMMANDS[0], image, **message).result()[1].segmentation, expected)
