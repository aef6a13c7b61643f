"""Recordings as other tools leave them: nothing is lost, and what cannot be read is named with its remedy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from recordings import raw, record
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from lisa_ros.bag import messages
from lisa_ros.bag.messages import IMAGE, typestore
from lisa_ros.bag.recording import RELIABLE, RecordingError, open_recording, write_recording
from lisa_ros.errors import ImageError

COUNT = 4


@pytest.fixture(params=[StoragePlugin.MCAP, StoragePlugin.SQLITE3], ids=["mcap", "sqlite3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    topics = {"/camera": [raw(n) for n in range(COUNT)], "/note": [messages.string(f"note {n}") for n in range(COUNT)]}
    return record(tmp_path / "in", topics, request.param)


def edit(folder: Path, change: Any) -> None:
    """Change the information of a recording's metadata.yaml."""
    content = yaml.safe_load((folder / "metadata.yaml").read_text())
    change(content["rosbag2_bagfile_information"])
    (folder / "metadata.yaml").write_text(yaml.safe_dump(content))


def counts(path: Path) -> dict[str, int]:
    with open_recording(path) as recording:
        found: dict[str, int] = {}
        for topic, *_ in recording.messages():
            found[topic] = found.get(topic, 0) + 1
    return found


@pytest.mark.parametrize("topics", [{"/camera"}, {"/note"}, {"/camera", "/note"}])
def test_another_qos_in_the_metadata_loses_no_message(folder: Path, topics: set[str]) -> None:
    def change(information: dict[str, Any]) -> None:
        for topic in information["topics_with_message_count"]:
            if topic["topic_metadata"]["name"] in topics:
                topic["topic_metadata"]["offered_qos_profiles"] = ""

    edit(folder, change)
    assert counts(folder) == {"/camera": COUNT, "/note": COUNT}
    with open_recording(folder) as recording:
        assert len(list(recording.frames("/camera"))) == COUNT


def test_another_type_hash_in_the_metadata_loses_no_message(folder: Path) -> None:
    def change(information: dict[str, Any]) -> None:
        for topic in information["topics_with_message_count"]:
            topic["topic_metadata"]["type_description_hash"] = "RIHS01_" + "0" * 64

    edit(folder, change)
    assert counts(folder) == {"/camera": COUNT, "/note": COUNT}


def test_one_file_of_a_split_recording_may_differ(tmp_path: Path) -> None:
    first = record(tmp_path / "first", {"/note": [messages.string("a")] * 3})
    second = tmp_path / "second"
    with Writer(second, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        topic = writer.add_connection("/note", messages.STRING, typestore=typestore(), offered_qos_profiles=[])
        for number in range(2):
            data = typestore().serialize_cdr(messages.string("b"), messages.STRING)
            writer.write(topic, 1_800_000_000_000_000_000 + number, data)
    shutil.copy(second / "second.mcap", first)

    def change(information: dict[str, Any]) -> None:
        information["relative_file_paths"].append("second.mcap")
        information["message_count"] = 5
        information["topics_with_message_count"][0]["message_count"] = 5

    edit(first, change)
    assert counts(first) == {"/note": 5}


def test_a_topic_that_the_metadata_does_not_list_is_copied_too(folder: Path) -> None:
    def change(information: dict[str, Any]) -> None:
        topics = information["topics_with_message_count"]
        information["topics_with_message_count"] = [t for t in topics if t["topic_metadata"]["name"] != "/note"]

    edit(folder, change)
    assert counts(folder) == {"/camera": COUNT, "/note": COUNT}


def test_messages_that_are_listed_and_missing_are_an_error(folder: Path) -> None:
    def change(information: dict[str, Any]) -> None:
        for topic in information["topics_with_message_count"]:
            topic["message_count"] += 1

    edit(folder, change)
    with pytest.raises(RecordingError, match=r"lists 10 messages and holds 8; .*ros2 bag reindex"):
        counts(folder)


def test_the_messages_of_a_written_recording_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Writer, "write", lambda *message: None)

    def fill(writer: Any) -> None:
        writer.define_own("/camera", IMAGE)
        writer.write(("/camera", IMAGE, 1, typestore().serialize_cdr(raw(0), IMAGE)))

    with pytest.raises(RecordingError, match=r"1 messages were written and .* holds 0"):
        write_recording(tmp_path / "out.mcap", tmp_path, fill)
    assert not (tmp_path / "out.mcap").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("walk.bag", "ROS 1 bag; convert it with: rosbags-convert"),
        ("walk.mcap.zstd", "compressed file of a recording; .*zstd -d"),
        ("walk.db3.zstd", "compressed file of a recording; .*zstd -d"),
    ],
)
def test_a_whole_recording_of_another_form_is_named(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"#ROSBAG V2.0")
    with pytest.raises(RecordingError, match=words) as error, open_recording(tmp_path / name):
        pass
    assert "repair" not in str(error.value)


def test_an_empty_storage_identifier_names_the_file_to_open(folder: Path) -> None:
    edit(folder, lambda information: information.update(storage_identifier=""))
    with pytest.raises(RecordingError, match=r"no storage_identifier; name the file itself, in\.(mcap|db3)"):
        counts(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 12}, "newer ROS 2 recorded it: name the .mcap file itself"),
        ({"storage_identifier": "my_storage"}, "ros2 bag convert"),
        ({"relative_file_paths": ["gone.mcap"]}, "put them back"),
    ],
)
def test_each_error_of_the_reader_has_its_own_remedy(folder: Path, change: dict[str, Any], words: str) -> None:
    edit(folder, lambda information: information.update(change))
    with pytest.raises(RecordingError, match=words) as error:
        counts(folder)
    assert "please report" not in str(error.value)


def test_a_file_of_compressed_messages_needs_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    writer = Writer(folder, version=8, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(CompressionMode.MESSAGE, CompressionFormat.ZSTD)
    with writer:
        topic = writer.add_connection("/camera", IMAGE, typestore=typestore(), offered_qos_profiles=[RELIABLE])
        writer.write(topic, 1, typestore().serialize_cdr(raw(0), IMAGE))
    assert counts(folder) == {"/camera": 1}
    (file,) = folder.glob("*.db3")
    with pytest.raises(RecordingError, match="are compressed; name its folder"):
        counts(file)
    alone = shutil.copy(file, tmp_path / "alone.db3")
    with open_recording(Path(alone)) as recording, pytest.raises(ImageError, match="name the recording's folder"):
        next(recording.frames("/camera")).read()


def test_a_recording_of_another_middleware_is_no_damaged_one(tmp_path: Path) -> None:
    source = record(tmp_path / "in", {"/note": [messages.string("a")]})
    (file,) = source.glob("*.mcap")
    foreign = tmp_path / "foreign.mcap"
    foreign.write_bytes(file.read_bytes().replace(b"ros2", b"ros1", 1))
    with pytest.raises(RecordingError, match="no ROS 2 recording") as error, open_recording(foreign):
        pass
    assert "repair" not in str(error.value)
    with Reader(source) as reader:
        assert reader.message_count == 1
