"""What a client and a server of ``lisa serve`` say to each other, as msgpack. No pickle.

A request is one map, a response a stream of maps, the events. Nothing that arrives is trusted: types, sizes and amounts
are checked here, values by the engine's contract (lisa_ros.engine.contract).

Masks travel as bits, compressed by zlib; other arrays as their bytes, with type and shape.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

import msgpack
import numpy as np
from numpy.typing import NDArray

from lisa_ros import errors
from lisa_ros.engine.api import (
    CAPABILITIES,
    Ask,
    Conversation,
    EngineInfo,
    MaskCrop,
    Proposals,
    Region,
    Timings,
    Turn,
)
from lisa_ros.errors import LisaError

logger = logging.getLogger(__name__)

PROTOCOL = 1
"""Changes with every change of the messages that an older client or server cannot read."""

TOKEN_VARIABLE = "LISA_TOKEN"
"""Environment variable with the secret that client and server share."""

MEDIA_TYPE = "application/x-lisa-ros+msgpack"

PING_S = 1.0
"""Seconds between two signs of life of a server whose engine is silent."""

MAX_ITEMS = 100_000
"""Most elements of one list; token ids of an answer are the longest."""

MAX_TEXT = 200_000
"""Most characters of one text."""

MAX_PROPOSALS = 1_000
MAX_PROPOSAL_PIXELS = 500_000_000

_ARRAY = 1  # msgpack's code of our extension type
_KINDS = "biuf"  # bool, whole numbers, floating point: numpy's names

T = TypeVar("T")


class WireError(ValueError):
    """Bytes that are not a message, or a message that is not what it must be."""


# --- bytes


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes. numpy's arrays and numbers are allowed anywhere. Raises TypeError for any other object."""
    packed: bytes = msgpack.packb(message, default=_default, unicode_errors="replace")
    return packed


class Unpacker:
    """Splits a stream of bytes into messages.

    Args:
        max_bytes: Most bytes of the whole stream.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=max(max_bytes, 1),
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
            ext_hook=_extension,
        )

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages that are complete with ``data``.

        Raises:
            WireError: There are more bytes than allowed, or they are not messages.
        """
        self._left -= len(data)
        if self._left < 0:
            raise WireError("there are more bytes than a message may have")
        try:
            self._unpacker.feed(data)
            messages = list(self._unpacker)
        except Exception as error:  # msgpack has many types for bytes that it cannot read
            raise WireError(f"the bytes are not msgpack: {type(error).__name__} {error}") from error
        if wrong := [message for message in messages if not isinstance(message, dict)]:
            raise WireError(f"a message is of type {type(wrong[0]).__name__}; it must be a map")
        return messages


def unpack(data: bytes) -> dict[str, Any]:
    """The one message in ``data``. Raises WireError."""
    messages = Unpacker(len(data)).feed(data)
    if len(messages) != 1:
        raise WireError(f"there are {len(messages)} whole messages; there must be one")
    return messages[0]


def _default(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in _KINDS:
        return msgpack.ExtType(_ARRAY, msgpack.packb([value.dtype.str, value.shape]) + value.tobytes())
    if isinstance(value, np.generic) and value.dtype.kind in _KINDS:
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot travel")


def _extension(code: int, data: bytes) -> NDArray[Any]:
    if code != _ARRAY:
        raise WireError(f"extension type {code} is not known")
    header = msgpack.Unpacker(max_array_len=64)
    header.feed(data[:1024])
    kind, shape = header.unpack()
    dtype = np.dtype(kind)
    if dtype.kind not in _KINDS or any(type(side) is not int or side < 0 for side in shape):
        raise WireError(f"an array of {kind!r} {shape!r} is not taken")
    if header.tell() + math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(f"an array of {dtype} {shape} has {len(data) - header.tell()} bytes")
    return np.frombuffer(data, dtype, offset=header.tell()).reshape(shape)


# --- values of a message


def get(message: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """The value of a field, of this type. Raises WireError."""
    value = message.get(name)
    if kind is float and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise WireError(f"{name} is a {type(value).__name__}; it must be {kind.__name__}")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise WireError(f"{name} has {len(value)} characters; at most {MAX_TEXT} are taken")
    return value


def get_list(message: Mapping[str, Any], name: str, convert: Callable[[Any], T]) -> list[T]:
    """The list of a field, each value converted. Raises WireError, as ``convert`` may."""
    return [convert(value) for value in get(message, name, list)]


def texts(message: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The texts of a field. Raises WireError."""
    return tuple(get_list(message, name, lambda value: get({name: value}, name, str)))


def _numbers(values: Any, count: int) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != count or not all(type(one) in (int, float) for one in values):
        raise WireError(f"{str(values)[:80]} must be {count} numbers")
    return tuple(map(float, values))


def _span(value: Any) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or not all(type(one) is int for one in value):
        raise WireError(f"{str(value)[:80]} must be begin and end of a span")
    return value[0], value[1]


# --- engines and errors


def info_message(info: EngineInfo) -> dict[str, Any]:
    return {**asdict(info), "capabilities": sorted(info.capabilities)}


def info_of(message: Mapping[str, Any]) -> EngineInfo:
    """Capabilities that only a newer server knows are left out. Raises WireError."""
    name, device, precision = (get(message, field, str) for field in ("name", "device", "precision"))
    return EngineInfo(name, device, precision, CAPABILITIES & frozenset(texts(message, "capabilities")))


def error_message(error: LisaError) -> dict[str, Any]:
    """``error`` must be of a type of lisa_ros.errors."""
    return {"event": "error", "error": type(error).__name__, "message": str(error)}


def error_of(message: Mapping[str, Any]) -> LisaError:
    """The error by its name; LisaError where the name is not known here. Raises WireError."""
    kind = getattr(errors, get(message, "error", str), LisaError)
    known = isinstance(kind, type) and issubclass(kind, LisaError)
    error: LisaError = (kind if known else LisaError)(get(message, "message", str))
    return error


# --- masks and regions


def bits_of(mask: NDArray[Any]) -> bytes:
    """The mask's pixels, those > 0 as 1, compressed."""
    return zlib.compress(np.packbits(mask > 0).tobytes(), 1)


def mask_of(bits: bytes, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The inverse of :func:`bits_of`. The caller has bounded the shape. Raises WireError."""
    count = math.prod(shape)
    size = (count + 7) // 8
    try:
        data = zlib.decompressobj().decompress(bits, size + 1)
    except zlib.error as error:
        raise WireError(f"a mask cannot be decompressed: {error}") from error
    if len(data) != size:
        raise WireError(f"a mask has {len(data)} bytes of bits; {shape} has {size}")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count).reshape(shape).view(np.bool_)


def region_message(region: Region) -> dict[str, Any]:
    mask = region.mask
    return {
        "label": mask.label,
        "box": [mask.x, mask.y, mask.width, mask.height],
        "bits": bits_of(mask.pixels),
        "area": mask.area,
        "centroid": list(mask.centroid),
        "score": region.score,
        "phrase": region.phrase,
        "spans": [list(span) for span in region.spans],
    }


def region_of(message: Any, size: tuple[int, int]) -> Region:
    """A region of a picture of ``size`` (height, width). Raises WireError."""
    if not isinstance(message, dict):
        raise WireError(f"a region is a {type(message).__name__}")
    box = get_list(message, "box", lambda side: get({"box": side}, "box", int))
    if len(box) != 4 or min(box) < 0 or box[0] + box[2] > size[1] or box[1] + box[3] > size[0]:
        raise WireError(f"a mask's box {box} is not inside the picture of {size[1]} x {size[0]} pixels")
    x, y, width, height = box
    pixels = mask_of(get(message, "bits", bytes), (height, width)).view(np.uint8) * np.uint8(255)
    score, area = get(message, "score", float), get(message, "area", int)
    across, down = _numbers(message.get("centroid"), 2)
    crop = MaskCrop(get(message, "label", int), x, y, width, height, pixels, score, area, (across, down))
    return Region(crop, score, get(message, "phrase", str), tuple(get_list(message, "spans", _span)))


# --- commands


def ask_message(ask: Ask) -> dict[str, Any]:
    """A command that ``checked_ask`` has passed."""
    return {
        "text": ask.text,
        "explain": ask.explain,
        "verbatim": ask.verbatim,
        "targets": list(ask.targets),
        "points": [list(point) for point in ask.points],
        "point_labels": list(ask.point_labels),
        "box": None if ask.box is None else list(ask.box),
        "max_new_tokens": ask.max_new_tokens,
        "history": None if ask.history is None else history_message(ask.history),
        "proposals": None if ask.proposals is None else _proposals_message(ask.proposals),
    }


def ask_of(message: Any, info: EngineInfo) -> Ask:
    """The command. The engine's contract checks its values; proposals are read only for an engine that takes them.

    Raises:
        WireError: A field is missing or has a wrong type.
        CommandError: The engine takes no proposals.
    """
    if not isinstance(message, dict):
        raise WireError(f"a command is a {type(message).__name__}; it must be a map")
    proposals, history, box = (message.get(name) for name in ("proposals", "history", "box"))
    if proposals is not None and "proposals" not in info.capabilities:
        raise errors.CommandError(f"{info.name} takes no proposals")
    return Ask(
        get(message, "text", str),
        get(message, "explain", bool),
        get(message, "verbatim", bool),
        texts(message, "targets"),
        None if proposals is None else _proposals_of(proposals),
        [(x, y) for x, y in get_list(message, "points", lambda point: _numbers(point, 2))],
        get_list(message, "point_labels", lambda label: get({"label": label}, "label", int)),
        None if box is None else _box_of(box),
        None if history is None else history_of(history),
        get(message, "max_new_tokens", int),
    )


def _box_of(value: Any) -> tuple[float, float, float, float]:
    x, y, width, height = _numbers(value, 4)
    return x, y, width, height


def history_message(history: Conversation) -> dict[str, Any]:
    turns = [
        [turn.question, turn.answer, None if turn.literal is None else [list(span) for span in turn.literal]]
        for turn in history.turns
    ]
    return {"max_turns": history.max_turns, "turns": turns}


def history_of(message: Any) -> Conversation:
    """Raises WireError."""
    if not isinstance(message, dict):
        raise WireError(f"a history is a {type(message).__name__}")
    return Conversation(get(message, "max_turns", int), get_list(message, "turns", _turn_of))


def _turn_of(value: Any) -> Turn:
    if not isinstance(value, list) or len(value) != 3:
        raise WireError("a turn must be question, answer and spans")
    fields_of_turn = dict(zip(("question", "answer", "literal"), value, strict=True))
    return Turn(
        get(fields_of_turn, "question", str),
        None if value[1] is None else get(fields_of_turn, "answer", str),
        None if value[2] is None else tuple(get_list(fields_of_turn, "literal", _span)),
    )


def _proposals_message(proposals: Proposals) -> dict[str, Any]:
    masks = None if proposals.masks is None else np.asarray(proposals.masks)
    return {
        "masks": None if masks is None else {"shape": list(masks.shape), "bits": bits_of(masks)},
        "embeddings": None if proposals.embeddings is None else np.asarray(proposals.embeddings),
        "scores": None if proposals.scores is None else np.asarray(proposals.scores),
        "phrases": list(proposals.phrases),
    }


def _proposals_of(message: Any) -> Proposals:
    if not isinstance(message, dict):
        raise WireError(f"proposals are a {type(message).__name__}")
    masks = None
    if message.get("masks") is not None:
        packed = get(message, "masks", dict)
        shape = tuple(get_list(packed, "shape", lambda side: get({"shape": side}, "shape", int)))
        if len(shape) != 3 or min(shape) < 0 or shape[0] > MAX_PROPOSALS or math.prod(shape) > MAX_PROPOSAL_PIXELS:
            raise WireError(f"masks of shape {shape} are not taken; at most {MAX_PROPOSALS} proposals")
        masks = mask_of(get(packed, "bits", bytes), shape)
    arrays = [
        None if message.get(name) is None else get(message, name, np.ndarray) for name in ("embeddings", "scores")
    ]
    return Proposals(masks, arrays[0], arrays[1], texts(message, "phrases"))


# --- answers


def answer_message(
    text: str,
    new: Sequence[Region],
    order: Sequence[int],
    absent: Sequence[str],
    timings: Timings,
    history: Conversation | None,
    details: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The last event of a command.

    Args:
        text: The answer's text.
        new: Regions that no event carried.
        order: The answer's regions, as indexes into all that were carried, ``new`` last.
        absent: Targets that are not in the image.
        timings: Seconds.
        history: With its new turn.
        details: Of the answer; values that cannot travel are left out, with a warning.
    """
    return {
        "event": "answer",
        "text": text,
        "regions": [region_message(region) for region in new],
        "order": list(order),
        "absent": list(absent),
        "timings": asdict(timings),
        "history": None if history is None else history_message(history),
        "details": None if details is None else _that_travel(details),
    }


def timings_of(message: Mapping[str, Any]) -> Timings:
    """Raises WireError."""
    return Timings(**{field.name: get(message, field.name, float) for field in fields(Timings)})


def _that_travel(details: Mapping[str, Any]) -> dict[str, Any]:
    travelling = {}
    for name, value in details.items():
        try:
            pack({"value": value})
        except (TypeError, ValueError, OverflowError) as error:
            logger.warning("the answer's detail %r is left out: %s", name, error)
        else:
            travelling[str(name)] = value
    return travelling
