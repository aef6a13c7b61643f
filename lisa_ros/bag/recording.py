"""A recording (rosbag2: MCAP or sqlite3, a file or a folder): its image topics, its frames, and writing another one."""

from __future__ import annotations

import functools
import heapq
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rosbags.interfaces import (
    Connection,
    MessageDefinitionFormat,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from lisa_ros.bag.messages import COMPRESSED, IMAGE, SEGMENTATION, typestore
from lisa_ros.errors import ConfigError, ImageError, LisaError
from lisa_ros.perception.image_codec import decode, decode_compressed

MAX_PIXELS = 50_000_000  # as the node's max_image_pixels
FOREVER = QosTime(2147483647, 4294967295)
ZSTD = b"\x28\xb5\x2f\xfd"
RELIABLE = Qos(  # what the node's own publishers offer
    QosHistory.KEEP_LAST,
    5,
    QosReliability.RELIABLE,
    QosDurability.VOLATILE,
    FOREVER,
    FOREVER,
    QosLiveliness.AUTOMATIC,
    FOREVER,
    False,
)

Message = tuple[str, str, int, Any]  # topic, type, time of recording in ns, serialized


class RecordingError(LisaError):
    """A recording is missing, damaged, or has nothing to annotate."""


@dataclass(frozen=True)
class Frame:
    """One image message. ``number``: its index on the topic, from 0. ``time_ns``: when it was recorded."""

    number: int
    time_ns: int
    kind: str
    serialized: bytes

    def read(self) -> tuple[Any, NDArray[np.uint8]]:
        """Header and RGB pixels (H, W, 3) uint8. Raises ImageError."""
        try:
            message: Any = typestore().deserialize_cdr(self.serialized, self.kind)
        except Exception as error:  # arbitrary bytes: the library may raise anything
            if self.serialized[: len(ZSTD)] == ZSTD:
                raise ImageError("the message is compressed; name the recording's folder, not its file") from error
            raise ImageError(f"the message is not a {self.kind}: {error}") from error
        return message.header, (decode_compressed if self.kind == COMPRESSED else decode)(message, MAX_PIXELS)


class Recording:
    """Made by :func:`open_recording`."""

    def __init__(self, path: Path, reader: Reader) -> None:
        self.path = path
        self._reader = reader

    @property
    def topics(self) -> set[str]:
        return {connection.topic for connection in self._reader.connections}

    def image_topic(self, wanted: str | None) -> str:
        """The topic to annotate.

        Args:
            wanted: The user's choice; None takes the only topic whose images can be decoded.

        Raises:
            ConfigError: The topic has no images, or several topics can be annotated. The message lists them.
            RecordingError: The recording has no images.
        """
        images = {c.topic: c for c in self._reader.connections if c.msgtype in (IMAGE, COMPRESSED) and c.msgcount}
        if not images:
            raise RecordingError(
                f"{self.path} has no images; its topics are: {', '.join(sorted(self.topics)) or 'none'}"
            )
        if wanted is not None:
            if wanted not in images:
                raise ConfigError(f"--topic {wanted} has no images; choose one of {self._listed(images)}")
            return wanted
        # Depth is an Image too, and labels are: among several topics, only those whose first frame can be used count.
        if len(images) == 1:
            return next(iter(images))
        annotations = self._annotations()
        usable = [topic for topic in images if not topic.startswith(annotations) and self._usable(topic)]
        if len(usable) != 1:
            raise ConfigError(f"{self.path} has several image topics; choose with --topic: {self._listed(images)}")
        return usable[0]

    def frame_count(self, topic: str) -> int:
        return sum(connection.msgcount for connection in self._on(topic))

    def frames(self, topic: str, first: int = 0) -> Iterator[Frame]:
        """The topic's images in the order of recording, from index ``first``."""
        messages = enumerate(self._messages(self._on(topic)))
        for number, (connection, time_ns, serialized) in itertools.islice(messages, first, None):
            yield Frame(number, time_ns, connection.msgtype, serialized)

    def messages(self) -> Iterator[Message]:
        """All messages, in the order of recording."""
        for connection, time_ns, serialized in self._messages(self._reader.connections):
            yield connection.topic, connection.msgtype, time_ns, serialized

    def define(self, writer: BagWriter) -> list[str]:
        """Add its topics, unchanged, to a recording that is written. Returns the topics without a definition."""
        left_out = []
        for connection in self._reader.connections:
            try:
                definition = _definition(connection)
            except Exception:  # a type that neither rosbags nor the recording defines
                left_out.append(f"{connection.topic} ({connection.msgtype})")
                continue
            writer.define(connection.topic, connection.msgtype, definition, connection.digest, _qos(connection))
        return left_out

    def _on(self, topic: str) -> list[Connection]:
        return [c for c in self._reader.connections if c.topic == topic and c.msgtype in (IMAGE, COMPRESSED)]

    def _messages(self, connections: Sequence[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
        listed, count = sum(connection.msgcount for connection in connections), 0
        with _readable(self.path):
            for message in self._reader.messages(connections):
                count += 1
                yield message
        if count != listed:
            raise RecordingError(
                f"{self.path} lists {listed} messages and holds {count}; repair its metadata.yaml with "
                " 'ros2 bag reindex', or name the .mcap or .db3 file itself"
            )

    def _annotations(self) -> tuple[str, ...]:
        """First part of the topics that an earlier annotation has added: beside its answers lie its labels."""
        return tuple(
            f"{c.topic.rpartition('/')[0]}/"
            for c in self._reader.connections
            if c.msgtype == SEGMENTATION and c.topic.count("/") > 1
        )

    def _usable(self, topic: str) -> bool:
        with suppress(ImageError):
            next(self.frames(topic)).read()
            return True
        return False

    def _listed(self, images: dict[str, Connection]) -> str:
        return ", ".join(f"{topic} ({c.msgtype.split('/')[-1]}, {c.msgcount} frames)" for topic, c in images.items())


def recordings_in(folder: Path) -> list[Path]:
    """The recordings in a folder, by name; none where the folder is a recording itself."""
    if not folder.is_dir() or (folder / "metadata.yaml").is_file():
        return []
    return sorted(
        one
        for one in folder.iterdir()
        if not one.name.startswith(".")
        and ((one / "metadata.yaml").is_file() if one.is_dir() else one.suffix in (".mcap", ".db3"))
    )


@contextmanager
def open_recording(path: Path) -> Iterator[Recording]:
    """Open a recording. Raises RecordingError where it is missing, damaged or not a recording."""
    if not path.exists():
        raise RecordingError(
            f"there is no recording {path}; give an .mcap or .db3 file, or a folder with metadata.yaml"
        )
    if path.is_dir() and not (path / "metadata.yaml").is_file():
        raise RecordingError(f"the folder {path} has no metadata.yaml; name the .mcap or .db3 file in it instead")
    _check_kind(path)
    with _readable(path):
        reader = Reader(path)
        reader.open()
        _reconcile(reader)
    try:
        yield Recording(path, reader)
    finally:
        reader.close()


def _check_kind(path: Path) -> None:
    """Raise RecordingError for whole recordings that another tool has to open or convert first."""
    name = path.name.lower()
    if name.endswith(".bag"):
        raise RecordingError(
            f"{path} is a ROS 1 bag; convert it with: rosbags-convert --src {path} --dst {path.with_suffix('')}"
        )
    if name.endswith((".mcap.zstd", ".db3.zstd", ".mcap.zst", ".db3.zst")):
        raise RecordingError(
            f"{path} is a compressed file of a recording; name its folder with metadata.yaml, or decompress it with: "
            f"zstd -d {path}"
        )
    if path.is_dir() and not _information(path / "metadata.yaml").get("storage_identifier"):
        files = sorted(file.name for file in path.iterdir() if file.suffix in (".mcap", ".db3"))
        raise RecordingError(
            f"{path / 'metadata.yaml'} has no storage_identifier; name the file "
            f"itself, {' or '.join(files) or 'an .mcap or .db3 file'}, or write mcap or sqlite3 there"
        )
    if path.is_file() and _information(path.parent / "metadata.yaml").get("compression_mode", "").lower() == "message":
        raise RecordingError(f"the messages in {path} are compressed; name its folder {path.parent} instead")


def _information(metadata: Path) -> dict[str, Any]:
    """Content of metadata.yaml. A missing or damaged one is not an error here: its reader has a better message."""
    try:
        content = yaml.safe_load(metadata.read_text("utf-8-sig"))["rosbag2_bagfile_information"]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {"storage_identifier": "unknown"}
    return content if isinstance(content, dict) else {"storage_identifier": "unknown"}


def _reconcile(reader: Reader) -> None:
    """Make the files decide if metadata.yaml describes a topic in another way.

    rosbags (0.11) leaves out every message of a topic whose QoS or type hash differs between metadata.yaml and the
    file, and of topics that metadata.yaml does not list. Other tools write such folders, and rosbag2 reads them.
    """
    files = getattr(reader.storage, "storages", [])  # of a folder; a file alone needs nothing
    topics = {(topic.topic, topic.msgtype): topic for topic in reader.connections}
    for file in files:
        for place, inner in enumerate(file.connections):
            outer = topics.get((inner.topic, inner.msgtype))
            if outer is None:
                outer = inner._replace(id=len(reader.connections) + 1, owner=reader.storage)
                reader.connections.append(outer)
                topics[inner.topic, inner.msgtype] = outer
            file.connections[place] = inner._replace(ext=outer.ext, digest=outer.digest)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn any error of the library about damaged bytes into a RecordingError with how to fix it."""
    try:
        yield
    except (LisaError, GeneratorExit, MemoryError):
        raise
    except Exception as error:
        reason = str(error).replace("; please report issue", "").rstrip(".") or type(error).__name__
        raise RecordingError(f"{path} cannot be read: {reason}; {_remedy(reason)}") from error


_REMEDIES = {
    "Profile is not ros2": "it is no ROS 2 recording (ROS 1, protobuf or JSON messages); convert it to rosbag2 first",
    "Serialization format": "only CDR messages, as ROS 2 writes them, can be read; convert it to rosbag2 first",
    "Rosbag2 version": "a newer ROS 2 recorded it: name the .mcap file itself, or update with: pip install -U rosbags",
    "Storage plugin": "only mcap and sqlite3 can be read; convert it with: ros2 bag convert",
    "database files are missing": "put them back, or name one .mcap or .db3 file itself",
}


def _remedy(reason: str) -> str:
    """How to fix what a library complains about."""
    known = (remedy for words, remedy in _REMEDIES.items() if words in reason)
    return next(known, "is it complete? 'mcap recover' or 'ros2 bag reindex' may repair it")


class BagWriter:
    """A recording that is written. ``define`` each topic once, then ``write``."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._connections: dict[tuple[str, str], Connection] = {}
        self.count = 0  # messages written

    def define(self, topic: str, kind: str, definition: str, digest: str, qos: Sequence[Qos]) -> None:
        """Add a topic with the text of its message definition; one of the same name and type is added once."""
        if (topic, kind) in self._connections:
            return
        connection = self._writer.add_connection(
            topic, kind, msgdef=definition, rihs01=digest or "unknown", offered_qos_profiles=qos
        )
        if not digest:  # an MCAP file has none; rosbags wants one, other readers take an empty one for unknown
            connection = self._writer.connections[-1] = connection._replace(digest="")
        self._connections[topic, kind] = connection

    def define_own(self, topic: str, kind: str) -> None:
        """Add a topic with a message type of this package or of ROS."""
        definition, _ = typestore().generate_msgdef(kind, ros_version=2)
        self.define(topic, kind, definition, typestore().hash_rihs01(kind), [RELIABLE])

    def write(self, message: Message) -> None:
        """Write one message; those on topics that were not defined are left out."""
        topic, kind, time_ns, serialized = message
        if connection := self._connections.get((topic, kind)):
            self._writer.write(connection, time_ns, serialized)
            self.count += 1


def write_recording(path: Path, workshop: Path, fill: Callable[[BagWriter], None]) -> None:
    """Write a new recording, which appears at ``path`` only when it is complete.

    Args:
        path: A file where it ends in .mcap, else a folder with metadata.yaml.
        workshop: Folder on the same disk to write in; what an earlier attempt left there is removed.
        fill: Called with the writer; writes all messages.
    """
    unfinished = workshop / path.stem
    shutil.rmtree(unfinished, ignore_errors=True)
    writer = Writer(unfinished, version=8, storage_plugin=StoragePlugin.MCAP)  # 8: Humble reads it too
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        _use_fast_compression(writer)
        bag = BagWriter(writer)
        fill(bag)
    written = unfinished / f"{unfinished.name}.mcap"
    with Reader(written) as reader:
        if reader.message_count != bag.count:
            raise RecordingError(f"{bag.count} messages were written and {written} holds {reader.message_count}")
    with open(written, "rb") as file:
        os.fsync(file.fileno())
    if path.suffix == ".mcap":
        written.replace(path)
        shutil.rmtree(unfinished)
    else:
        unfinished.replace(path)


def _use_fast_compression(writer: Writer) -> None:
    """Make an open writer compress with zstd level 1, as rosbag2's fast presets do.

    The default level 3 takes seven times as long for camera images, more than everything else in writing, and makes
    them 3 % smaller. rosbags (0.11) has no argument for it. Where another version keeps its compressor elsewhere, this
    has no effect.
    """
    if (compressor := getattr(writer.storage, "compressor", None)) is not None:
        writer.storage.compressor = functools.partial(compressor, level=1)  # type: ignore[union-attr]


def merged(*streams: Iterable[Message]) -> Iterator[Message]:
    """Messages of several streams by time; at equal times, those of the first stream come first."""
    return heapq.merge(*streams, key=lambda message: message[2])


def _definition(connection: Connection) -> str:
    """Text of a topic's message definition. Old recordings have none; ROS's own types are known without it.

    It is copied, never registered: rosbags generates Python code from a definition and runs it, and a recording is not
    trusted.
    """
    if connection.msgdef.format == MessageDefinitionFormat.NONE:
        return typestore().generate_msgdef(connection.msgtype, ros_version=2)[0]
    return connection.msgdef.data


def _qos(connection: Connection) -> Sequence[Qos]:
    return getattr(connection.ext, "offered_qos_profiles", ())
