"""Messages between client and server: nothing is lost, and no bytes do harm."""

from __future__ import annotations

from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lisa_ros import errors
from lisa_ros.engine.api import CAPABILITIES, Ask, Conversation, EngineInfo, Region, Turn, crop_mask
from lisa_ros.remote import wire

SIZE = (23, 37)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
spans = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple)
masks = arrays.arrays(np.bool_, SIZE)
turns = st.builds(Turn, texts, st.none() | texts, st.none() | spans)
conversations = st.builds(Conversation, st.integers(1, 9), st.lists(turns, max_size=3))
finite = st.floats(-1e4, 1e4)
asks = st.builds(
    Ask,
    text=texts,
    explain=st.booleans(),
    verbatim=st.booleans(),
    targets=st.lists(texts, max_size=3).map(tuple),
    points=st.lists(st.tuples(finite, finite), max_size=3),
    point_labels=st.lists(st.integers(0, 1), max_size=3),
    box=st.none() | st.tuples(finite, finite, finite, finite),
    history=st.none() | conversations,
    max_new_tokens=st.integers(1, 10_000),
)
numbers = arrays.arrays(
    st.sampled_from(["bool", "u1", "i4", "i8", "f2", "f4", "f8", ">f4"]).map(np.dtype),
    arrays.array_shapes(min_dims=0, min_side=0, max_side=4),
)


@given(mask=masks, score=st.floats(0, 1), phrase=texts, spans=spans)
def test_a_region_arrives_as_it_is(mask: np.ndarray, score: float, phrase: str, spans: tuple) -> None:
    region = Region(crop_mask(mask, 3, score), score, phrase, spans)
    there = wire.region_of(wire.unpack(wire.pack(wire.region_message(region))), SIZE)
    assert np.array_equal(there.mask.pixels, region.mask.pixels)
    assert there.mask.pixels.dtype == np.uint8
    for name in ("label", "x", "y", "width", "height", "area", "centroid", "score"):
        assert getattr(there.mask, name) == getattr(region.mask, name)
    assert (there.score, there.phrase, there.spans) == (score, phrase, region.spans)


@given(asks)
def test_a_command_arrives_as_it_is(ask: Ask) -> None:
    there = wire.ask_of(wire.unpack(wire.pack(wire.ask_message(ask))), EngineInfo("x"))
    assert vars(there) == vars(ask)


@given(numbers)
def test_an_array_arrives_as_it_is(array: np.ndarray) -> None:
    there = wire.unpack(wire.pack({"a": array}))["a"]
    assert (there.dtype, there.shape, there.tobytes()) == (array.dtype, array.shape, array.tobytes())


@given(st.lists(st.dictionaries(texts, st.integers(0, 9)), max_size=5), st.integers(1, 9))
def test_messages_arrive_in_pieces_of_any_size(messages: list[dict], step: int) -> None:
    data = b"".join(map(wire.pack, messages))
    unpacker = wire.Unpacker(len(data))
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert [message for piece in pieces for message in unpacker.feed(piece)] == messages


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    with suppress(wire.WireError):
        wire.unpack(data)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats() | texts | st.binary(max_size=9) | numbers,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(wire.ask_message(Ask()))), anything)
def test_any_value_of_a_field_of_a_command_is_taken_or_refused(name: str, value: object) -> None:
    info = EngineInfo("x", capabilities=CAPABILITIES)
    with suppress(wire.WireError, errors.CommandError):
        wire.ask_of(wire.unpack(wire.pack(wire.ask_message(Ask("x")) | {name: value})), info)


@given(st.sampled_from(["label", "box", "bits", "area", "centroid", "score", "phrase", "spans"]), anything)
def test_any_value_of_a_field_of_a_region_is_taken_or_refused(name: str, value: object) -> None:
    region = wire.region_message(Region(crop_mask(np.ones((4, 4), bool)), 0.5))
    with suppress(wire.WireError):
        wire.region_of(wire.unpack(wire.pack(region | {name: value})), SIZE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (msgpack.packb(msgpack.ExtType(2, b"")), "not msgpack"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(["|O8", [1]]) + b"12345678")}), "array of"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(["<f4", [2**40]]))}), "has 0 bytes"),
        (msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(["<f4", [-1]]))}), "not taken"),
        (msgpack.packb({}) * 2, "2 whole messages"),
        (b"\xdd\xff\xff\xff\xff", "not msgpack"),
    ],
    ids=["extension", "objects", "terabytes", "negative", "two", "long list"],
)
def test_what_is_no_message_is_named(data: bytes, message: str) -> None:
    with pytest.raises(wire.WireError, match=message):
        wire.unpack(data)


@pytest.mark.parametrize("kind", [errors.CommandError, errors.Busy, errors.OutOfMemory, errors.LisaError])
def test_an_error_arrives_with_its_type(kind: type) -> None:
    there = wire.error_of(wire.unpack(wire.pack(wire.error_message(kind("why")))))
    assert (type(there), str(there)) == (kind, "why")


def test_the_name_of_an_error_chooses_errors_only() -> None:
    for name in ("LisaError", "annotations", "__name__", "SystemExit"):
        assert type(wire.error_of({"error": name, "message": "m"})) is errors.LisaError
