"""``lisa bag``: annotated recordings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="lisa bag needs rosbags: pip install 'lisa_ros[bag]'")

from recordings import RATE_HZ, SIZE, Bright, compressed, header, raw, record, recorded_ns, truth, unknown
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader, StoragePlugin, Writer

from lisa_ros import cli
from lisa_ros.bag import messages
from lisa_ros.bag.annotation import Job, split
from lisa_ros.bag.recording import RELIABLE, Frame, write_recording
from lisa_ros.cli import model as model_cli
from lisa_ros.engine.support import SupportedEngine

COUNT = 25
TEST = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Images, and something that is not an image."""
    words = [messages.string(f"word {number}") for number in range(COUNT)]
    return record(tmp_path_factory.mktemp("bag") / "in", {"/camera": [raw(n) for n in range(COUNT)], "/speech": words})


@pytest.fixture
def bright(monkeypatch):
    engine = Bright()
    monkeypatch.setattr(model_cli, "load", lambda arguments: SupportedEngine(engine))
    return engine


def annotate(source, out, *options, command="the box"):
    return cli.main(["bag", str(source), "--command", command, "--out", str(out), *map(str, options)])


def read(path):
    """topic -> [(time, message)], with the definitions that the file itself brings."""
    found: dict[str, list] = {}
    with AnyReader([path]) as reader:
        for connection, time_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            found.setdefault(connection.topic, []).append((time_ns, message))
    return found


def iou(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def pixels(image):
    return image.data.reshape(image.height, image.width)


def stamp(message):
    return message.header.stamp.sec, message.header.stamp.nanosec


def test_every_frame_gets_its_mask_under_its_own_stamp(recording, tmp_path, bright):
    out = tmp_path / "out.mcap"
    assert annotate(recording, out, "--every", 1) == 0
    assert out.is_file()
    assert list(tmp_path.iterdir()) == [out]
    found = read(out)
    assert set(found) == {
        "/camera", "/speech", "/lisa/labels", "/lisa/result", "/lisa/answer", "/lisa/tracked",
        "/lisa/overlay/compressed",
    }  # fmt: skip
    assert [len(found[topic]) for topic in ("/camera", "/lisa/labels", "/lisa/tracked")] == [COUNT] * 3
    assert len(found["/lisa/result"]) == len(bright.commands) == 3
    for number, (time_ns, labels) in enumerate(found["/lisa/labels"]):
        assert time_ns == recorded_ns(number)
        assert stamp(labels) == stamp(raw(number))
        assert (labels.header.frame_id, labels.encoding, labels.step) == ("camera_optical", "mono8", SIZE[1])
        assert set(np.unique(labels.data)) == {0, 1}
        assert iou(pixels(labels) == 1, truth(number)) > 0.85
    result = found["/lisa/result"][1][1]
    assert (result.command, result.answer, result.status) == ("the box", "It is the box, [SEG].", result.SUCCESS)
    assert stamp(result) == stamp(raw(RATE_HZ))
    (mask,) = result.masks
    assert (mask.area, mask.phrase) == (truth(RATE_HZ).sum(), "a box")
    mentions = zip(mask.text_begin, mask.text_end, strict=True)
    assert [result.answer[begin:end] for begin, end in mentions] == ["[SEG]", "box"]
    assert (result.camera, result.absent) == ("", [])
    assert {t.masks[0].mask.phrase for _, t in found["/lisa/tracked"]} == {"a box"}
    assert found["/lisa/answer"][0][1].data == "It is the box, [SEG]."
    assert {t.masks[0].state for _, t in found["/lisa/tracked"]} == {1}
    overlay = found["/lisa/overlay/compressed"][3][1]
    assert (overlay.format, stamp(overlay)) == ("rgb8; jpeg compressed bgr8", stamp(raw(3)))
    assert cv2.imdecode(overlay.data, cv2.IMREAD_COLOR).shape == (*SIZE, 3)


def test_the_original_messages_are_untouched(recording, tmp_path, bright):
    out = tmp_path / "out.mcap"
    annotate(recording, out)
    with Reader(recording) as before, Reader(out) as after:
        own = [c for c in after.connections if c.topic in ("/camera", "/speech")]
        was = [(c.topic, c.msgtype, t, data) for c, t, data in before.messages()]
        assert [(c.topic, c.msgtype, t, data) for c, t, data in after.messages(own)] == was
        assert {c.ext.offered_qos_profiles[0] for c in after.connections} == {RELIABLE}
        assert {c.topic: c.msgdef.data for c in own} == {c.topic: c.msgdef.data for c in before.connections}


def test_a_folder_has_the_metadata_that_ros2_bag_reads(recording, tmp_path, bright):
    out = tmp_path / "annotated"
    annotate(recording, out, "--results-only", "--overlay", "raw", "--name", "/robot/lisa")
    assert sorted(file.name for file in out.iterdir()) == ["annotated.mcap", "metadata.yaml"]
    found = read(out)
    assert set(found) == {f"/robot/lisa/{t}" for t in ("labels", "result", "answer", "tracked", "overlay")}
    assert found["/robot/lisa/overlay"][0][1].encoding == "rgb8"
    with Reader(out) as reader:
        digests = {c.msgtype: c.digest for c in reader.connections}
    assert digests[messages.SEGMENTATION] == messages.typestore().hash_rihs01(messages.SEGMENTATION)


def test_message_definitions_are_those_that_ros_builds():
    """By the hash of the type, which every reader and every DDS peer compares."""
    index = pytest.importorskip("ament_index_python", reason="needs the built messages: make build")
    built = Path(index.get_package_share_directory("lisa_ros")) / "msg"
    for name in ("Segmentation", "TrackedMasks"):
        if not (file := built / f"{name}.json").is_file():
            pytest.skip("this ROS has no type hashes")
        kind = f"lisa_ros/msg/{name}"
        hashes = {entry["type_name"]: entry["hash_string"] for entry in json.loads(file.read_text())["type_hashes"]}
        assert messages.typestore().hash_rihs01(kind) == hashes[kind]


@pytest.mark.parametrize("storage", StoragePlugin)
def test_folders_and_single_files_of_either_storage_are_read(tmp_path, bright, storage):
    folder = record(tmp_path / "in", {"/camera": [raw(0), raw(1)]}, storage)
    (file,) = [f for f in folder.iterdir() if f.suffix != ".yaml"]
    for number, source in enumerate((folder, file)):
        assert annotate(source, tmp_path / f"{number}.mcap") == 0
        assert len(read(tmp_path / f"{number}.mcap")["/lisa/labels"]) == 2


def test_compressed_images_are_read_too(tmp_path, bright):
    source = record(tmp_path / "in", {"/camera/compressed": [compressed(n) for n in range(3)]})
    annotate(source, tmp_path / "out.mcap")
    labels = [pixels(message) for _, message in read(tmp_path / "out.mcap")["/lisa/labels"]]
    assert [iou(mask == 1, truth(n)) > 0.8 for n, mask in enumerate(labels)] == [True] * 3


def test_targets_that_are_not_there_are_listed(recording, tmp_path, bright, capsys):
    out = tmp_path / "out.mcap"
    assert annotate(recording, out, "--target", "box", "--target", "nothing", "--every", 0, command="") == 0
    ((_, result),) = read(out)["/lisa/result"]
    assert bright.commands == ["box", "nothing"]
    assert (result.command, result.absent) == ("box, nothing", ["nothing"])
    assert "without the command" not in capsys.readouterr().err
    assert annotate(recording, tmp_path / "both.mcap", "--target", "box", "--every", 0) == 0
    assert "bright ignores the command beside --target" in capsys.readouterr().err
    assert (result.status, len(result.masks)) == (result.SUCCESS, 1)


def test_what_a_model_says_is_shown_without_control_characters(recording, tmp_path, bright, monkeypatch, capsys):
    ask = bright.ask
    hostile = "a \x1b[2Jbox" + " " * 40  # as long as the answer, for its spans

    def hostile_ask(*values, **options):
        return replace(ask(*values, **options), text=hostile)

    monkeypatch.setattr(bright, "ask", hostile_ask, raising=False)
    assert annotate(recording, tmp_path / "out.mcap", "--every", 0, "--no-tracking") == 0
    output = capsys.readouterr()
    assert "a \\x1b[2Jbox" in output.out
    assert "\x1b[2J" not in output.out + output.err


def test_another_engine_begins_anew(recording, tmp_path, bright, monkeypatch, capsys):
    """Options of the engine are part of what an unfinished run is compared by."""
    out = tmp_path / "out.mcap"
    monkeypatch.setattr(bright, "ask", lambda *given, **options: 1 / 0)
    for _ in range(2):
        assert annotate(recording, out, "--model", "some:engine", "--option", "size=3") == 1
        assert "ZeroDivisionError" in capsys.readouterr().err
    for options in (("--model", "some:engine"), ("--model", "another:engine", "--option", "size=3")):
        assert annotate(recording, out, *options) == 1
        assert "with other options" in capsys.readouterr().err


def test_a_command_without_a_mask_has_the_status_not_found(recording, tmp_path, bright):
    annotate(recording, tmp_path / "out.mcap", command="nothing at all")
    found = read(tmp_path / "out.mcap")
    result = found["/lisa/result"][0][1]
    assert (result.status, result.masks) == (result.NOT_FOUND, [])
    assert not any(message.data.any() for _, message in found["/lisa/labels"])


def test_without_tracking_only_the_frames_that_were_asked_about_have_masks(recording, tmp_path, bright):
    annotate(recording, tmp_path / "out.mcap", "--no-tracking", "--every", 1)
    times = [time_ns for time_ns, _ in read(tmp_path / "out.mcap")["/lisa/labels"]]
    assert times == [recorded_ns(0), recorded_ns(RATE_HZ), recorded_ns(2 * RATE_HZ)]


def test_frames_that_cannot_be_used_are_named_and_skipped(tmp_path, bright, capsys):
    frames = [unknown(0), raw(1), raw(2), *(unknown(n) for n in range(3, 10)), raw(10)]
    frames[2].step = 5
    source = record(tmp_path / "in", {"/camera": frames})
    assert annotate(source, tmp_path / "out.mcap") == 0
    found = read(tmp_path / "out.mcap")
    assert [time_ns for time_ns, _ in found["/lisa/labels"]] == [recorded_ns(1), recorded_ns(10)]
    assert len(found["/camera"]) == 11
    printed = capsys.readouterr().out
    assert "frame 0 at 0.00 s of /camera is skipped: encoding 'bayer_rggb12'" in printed
    assert "frame 2 at 0.20 s of /camera is skipped: step 5 is wrong" in printed
    assert "9 frames were skipped in total" in printed


def test_a_recording_without_a_usable_frame_is_an_error(tmp_path, bright, capsys):
    source = record(tmp_path / "in", {"/camera": [unknown(0), unknown(1)]})
    assert annotate(source, tmp_path / "out.mcap") == 1
    assert "no frame of /camera" in capsys.readouterr().err
    assert not (tmp_path / "out.mcap").exists()


def test_a_depth_topic_is_not_taken_for_the_image_topic(tmp_path, bright):
    depth = messages.image(header(0), np.zeros((*SIZE, 2), np.uint8), "16UC1")
    source = record(tmp_path / "in", {"/depth": [depth], "/colour": [raw(0)]})
    assert annotate(source, tmp_path / "out.mcap") == 0


def test_two_cameras_need_a_choice(tmp_path, bright, capsys):
    source = record(tmp_path / "in", {"/left": [raw(0)], "/right": [raw(0), raw(1)]})
    assert annotate(source, tmp_path / "out.mcap") == 1
    assert "--topic: /left (Image, 1 frames), /right (Image, 2 frames)" in capsys.readouterr().err
    assert annotate(source, tmp_path / "out.mcap", "--topic", "/top") == 1
    assert "--topic /top has no images" in capsys.readouterr().err
    assert annotate(source, tmp_path / "out.mcap", "--topic", "/right") == 0
    assert len(read(tmp_path / "out.mcap")["/lisa/labels"]) == 2


def test_errors_name_the_value_and_how_to_fix_it(recording, tmp_path, bright, capsys):
    broken, empty, text = tmp_path / "broken.mcap", tmp_path / "empty", tmp_path / "text.txt"
    whole = next(recording.glob("*.mcap")).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    empty.mkdir()
    text.write_text("hello")
    silent = record(tmp_path / "silent", {"/speech": [messages.string("hello")]})
    out = tmp_path / "out.mcap"
    for source, options, says in (
        (tmp_path / "none.mcap", [], "there is no recording"),
        (broken, [], "is it complete?"),
        (text, [], "'.txt'"),
        (empty, [], "metadata.yaml"),
        (silent, [], "has no images; its topics are: /speech"),
        (recording, ["--every", "-1"], "--every -1"),
        (recording, ["--name", "lisa"], "--name 'lisa' is not a ROS name"),
        (recording, ["--out", tmp_path / "no" / "out.mcap"], "there is no folder"),
        (recording, ["--out", tmp_path / "out.bag"], "'.bag' cannot be written"),
        (recording, ["--out", recording], "never overwritten"),
    ):
        assert annotate(source, out, *options) == 1
        assert says in (error := capsys.readouterr().err)
        assert error.count("\n") == 1
    assert annotate(recording, out, command="  ") == 1
    assert "no command; add --command" in capsys.readouterr().err
    assert not out.exists()


def test_a_damaged_recording_is_an_error_in_one_line(recording, tmp_path, bright, capsys):
    """Bytes changed anywhere: annotated all the same, or refused in one line; never a traceback."""
    whole = next(recording.glob("*.mcap")).read_bytes()
    random = np.random.default_rng(3)
    for number in range(12):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 20):
            damaged[place] = random.integers(0, 256)
        if number % 2:
            damaged[-300:] = random.bytes(300)
        source = tmp_path / f"{number}.mcap"
        source.write_bytes(damaged)
        assert annotate(source, tmp_path / f"out{number}.mcap", "--overlay", "none", "--every", 0) in (0, 1)
        capsys.readouterr()


def test_a_definition_in_a_recording_is_not_compiled(tmp_path, bright):
    """rosbags makes Python code of a definition that it registers: this one would not even parse."""
    source = tmp_path / "in"
    with Writer(source, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        camera = writer.add_connection("/camera", messages.IMAGE, typestore=messages.typestore())
        strange = writer.add_connection("/strange", "a/msg/B", msgdef="int8 x=__import__('os')\n}{", rihs01="unknown")
        writer.write(camera, recorded_ns(0), messages.typestore().serialize_cdr(raw(0), messages.IMAGE))
        writer.write(strange, recorded_ns(0), b"\0\1\0\0")
    assert annotate(source, tmp_path / "out.mcap") == 0
    with Reader(tmp_path / "out.mcap") as reader:
        (copied,) = [c for c in reader.connections if c.topic == "/strange"]
    assert copied.msgdef.data.endswith("}{")


def test_topics_that_exist_already_need_another_name(recording, tmp_path, bright, capsys):
    first = tmp_path / "first.mcap"
    annotate(recording, first)
    assert annotate(first, tmp_path / "second.mcap", "--topic", "/camera") == 1
    assert "/lisa/answer already; name the new topics with --name" in capsys.readouterr().err
    assert annotate(first, tmp_path / "second.mcap", "--name", "/other") == 0  # labels and overlays are no cameras
    assert len(read(tmp_path / "second.mcap")) == 12


KILLED = """
import sys, time
sys.path[:0] = {paths!r}
from recordings import Bright
from lisa_ros import cli
from lisa_ros.cli import model as model_cli
from lisa_ros.engine.support import SupportedEngine

class Slow(Bright):
    def ask(self, *given, **options):
        if len(self.commands) == 2:
            print("third", flush=True)
            time.sleep(600)
        return super().ask(*given, **options)

model_cli.load = lambda arguments: SupportedEngine(Slow())
sys.exit(cli.main({arguments!r}))
"""


def test_a_run_that_was_killed_continues_and_writes_the_same_bytes_as_an_unbroken_one(
    recording, tmp_path, bright, capsys
):
    out, unbroken = tmp_path / "out.mcap", tmp_path / "unbroken" / "out.mcap"
    unbroken.parent.mkdir()
    options = ["--every", "0.7"]
    given = ["bag", str(recording), "--command", "the box", "--out", str(out), *options]
    script = KILLED.format(paths=[str(TEST), str(TEST.parent)], arguments=given)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert any(line == "third\n" for line in process.stdout)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not out.exists()
    assert annotate(recording, out, "--every", "0.5") == 1
    assert "with other options; use the same ones to continue it" in capsys.readouterr().err
    assert annotate(recording, out, *options) == 0
    output = capsys.readouterr().out
    assert f"continues at frame 14 of {COUNT}" in output
    assert f"{COUNT} frames, 14 of them by an earlier run, in" in output
    assert len(bright.commands) == 2  # of four: two were answered before
    assert annotate(recording, unbroken, *options) == 0
    assert out.read_bytes() == unbroken.read_bytes()
    assert not list(tmp_path.glob(".unfinished*"))


def test_parts_that_another_worker_has_annotated_are_not_annotated_again(recording, tmp_path, bright, monkeypatch):
    """Work that was interrupted may have gaps: one worker is faster than another."""
    out, unbroken = tmp_path / "out.mcap", tmp_path / "unbroken" / "out.mcap"
    unbroken.parent.mkdir()
    whole = Job.annotate

    def odd_parts_alone(*given):
        whole(*given[:5], lambda index: index % 2 == 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "annotate", odd_parts_alone)
    assert annotate(recording, out, "--every", "0.5") == 130
    assert len(bright.commands) == 2  # of five parts
    monkeypatch.setattr(Job, "annotate", whole)
    assert annotate(recording, out, "--every", "0.5") == 0
    assert len(bright.commands) == 5
    assert annotate(recording, unbroken, "--every", "0.5") == 0
    assert out.read_bytes() == unbroken.read_bytes()


def test_recordings_are_written_with_fast_compression(tmp_path):
    compressors = []
    write_recording(tmp_path / "out", tmp_path, lambda writer: compressors.append(writer._writer.storage.compressor))
    assert [compressor.keywords for compressor in compressors] == [{"level": 1}]


def test_restart_removes_unfinished_work(recording, tmp_path, bright, monkeypatch):
    out = tmp_path / "out.mcap"
    monkeypatch.setattr(bright, "ask", lambda *given, **options: 1 / 0)
    assert annotate(recording, out) == 1
    monkeypatch.undo()
    monkeypatch.setattr(model_cli, "load", lambda arguments: SupportedEngine(bright))
    assert annotate(recording, out, "--restart", command="another") == 0
    assert set(bright.commands) == {"another"}


def test_parts_begin_every_so_many_seconds():
    frames = [Frame(n, recorded_ns(n), messages.IMAGE, b"") for n in range(12)]
    assert [[f.number for f in part] for part in split(frames, 0.5)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]
    assert [len(list(part)) for part in split(frames, 0)] == [12]


def test_the_demo_model_annotates_the_demo_picture(repository, tmp_path, capsys):
    from lisa_small import model_folder

    if not (model_folder() / "config.json").is_file():
        pytest.skip("the demo model is not installed")
    table = cv2.cvtColor(cv2.imread(str(repository / "demo" / "scene.jpg")), cv2.COLOR_BGR2RGB)
    source = record(tmp_path / "in", {"/camera": [messages.image(header(n), table, "rgb8") for n in range(4)]})
    assert annotate(source, tmp_path / "out.mcap", "--device", "cpu", command="something to tighten this screw") == 0
    printed = capsys.readouterr()
    assert "frame 0 at 0.00 s: It is the screwdriver, [SEG]. (1 mask)" in printed.out
    assert "times real time" in printed.out
    assert printed.err.count("the bundled demo model knows only rendered tables") == 1
    masks = [pixels(labels) > 0 for _, labels in read(tmp_path / "out.mcap")["/lisa/labels"]]
    assert [iou(mask, masks[0]) > 0.95 for mask in masks] == [True] * 4


def test_an_engine_in_one_file_annotates_a_recording(repository, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(repository / "examples")
    rgb = np.full((*SIZE, 3), 120, np.uint8)
    rgb[truth(0)] = (220, 20, 20)
    source = record(tmp_path / "in", {"/camera": [messages.image(header(n), rgb, "rgb8") for n in range(3)]})
    options = ("--model", "colour_engine:load", "--target", "red", "--target", "blue", "--option", "smallest=0.01")
    assert annotate(source, tmp_path / "out.mcap", *options, command="") == 0
    found = read(tmp_path / "out.mcap")
    ((_, result),) = found["/lisa/result"]
    assert (result.model, result.absent, result.masks[0].phrase) == ("colours", ["blue"], "red")
    assert iou(pixels(found["/lisa/labels"][2][1]) == 1, truth(0)) > 0.9


# --- a folder of recordings


@pytest.fixture
def recordings(tmp_path):
    """A folder of two recordings: one a folder, one a file."""
    folder = tmp_path / "day"
    folder.mkdir()
    record(folder / "morning", {"/camera": [raw(n) for n in range(8)]})
    (file,) = record(tmp_path / "noon", {"/camera": [raw(n) for n in range(5)]}).glob("*.mcap")
    file.rename(folder / "noon.mcap")
    (folder / "notes.txt").write_text("sunny")
    return folder


def test_each_recording_of_a_folder_is_annotated_as_if_it_were_alone(recordings, tmp_path, bright, capsys):
    out = tmp_path / "out"
    assert annotate(recordings, out, "--every", "0.5") == 0
    assert sorted(path.name for path in out.iterdir()) == ["morning", "noon.mcap"]
    assert "morning: frame 5 at" in capsys.readouterr().out
    for name in ("morning", "noon.mcap"):
        alone = tmp_path / "alone" / name
        alone.parent.mkdir(exist_ok=True)
        assert annotate(recordings / name, alone, "--every", "0.5") == 0
        files = [alone] if alone.is_file() else sorted(alone.glob("*.mcap"))
        for file in files:
            assert (out / file.relative_to(alone.parent)).read_bytes() == file.read_bytes()


def test_a_folder_continues_with_the_recordings_that_are_not_written(recordings, tmp_path, bright, capsys, monkeypatch):
    out, finish = tmp_path / "out", Job.finish

    def fail_once(job, *given):
        if job.folder.name.endswith("noon.mcap"):
            raise KeyboardInterrupt
        return finish(job, *given)

    monkeypatch.setattr(Job, "finish", fail_once)
    assert annotate(recordings, out) == 130
    monkeypatch.setattr(Job, "finish", finish)
    assert len(bright.commands) == 2
    assert annotate(recordings, out, "--explain") == 1
    assert "has unfinished work with other options" in capsys.readouterr().err
    assert annotate(recordings, out) == 0
    assert f"{out / 'morning'} is written already" in capsys.readouterr().out
    assert len(bright.commands) == 2  # all parts were done
    assert sorted(path.name for path in out.iterdir()) == ["morning", "noon.mcap"]
    assert annotate(recordings, out) == 1
    assert "recordings are never overwritten" in capsys.readouterr().err


def test_a_folder_of_recordings_needs_a_folder_and_names_that_differ(recordings, tmp_path, bright, capsys):
    assert annotate(recordings, tmp_path / "out.mcap") == 1
    assert "give a folder for the outputs" in capsys.readouterr().err
    (recordings / "noon.db3").write_bytes(b"")
    assert annotate(recordings, tmp_path / "out") == 1
    assert "has two recordings named noon; rename one of them" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
