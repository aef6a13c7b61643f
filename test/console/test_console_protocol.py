"""What pages send is read or refused, never anything else."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lisa_console.protocol import (
    MOST_CHARACTERS,
    PREFIX,
    Choose,
    Command,
    Correct,
    Hello,
    Kind,
    Malformed,
    SetOption,
    View,
    read_request,
    write_binary,
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
KINDS = (
    "hello",
    "view",
    "drawn",
    "hold",
    "command",
    "cancel",
    "choose",
    "clear",
    "clear_session",
    "show",
    "set",
    "correct",
)
FIELDS = (
    "token",
    "camera",
    "visible",
    "stamp",
    "text",
    "session",
    "explain",
    "points",
    "box",
    "id",
    "label",
    "name",
    "value",
)


def read(kind: str, **fields: Any) -> Any:
    return read_request(json.dumps({"type": kind, **fields}))


def test_requests_are_read() -> None:
    assert read("hello", token="secret") == Hello("secret")
    assert read("view", camera="left", visible=True) == View("left", True)
    assert read("choose", id="a", label=3) == Choose("a", 3)
    assert read("set", name="early_mask", value=True) == SetOption("early_mask", True)
    assert read("correct", id="a", right=False, mask="AAEC") == Correct("a", False, b"\x00\x01\x02")
    command = read(
        "command", text="this", points=[[1.5, 2, 1], [3, 4, 0]], box=[1, 2, 3, 4], stamp="1700000000123456789"
    )
    assert command == Command("this", "", "", False, ((1.5, 2.0, 1), (3.0, 4.0, 0)), (1, 2, 3, 4), 1700000000123456789)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "type is none of"),
        ('{"type": "publish"}', "type is none of"),
        ('{"type": ["hello"]}', "type is none of"),
        (json.dumps({"type": "command", "text": "a" * (MOST_CHARACTERS + 1)}), "10001 characters"),
        ('{"type": "command", "text": 5}', "text is not text"),
        ('{"type": "command", "text": "a", "points": [[1, 2]]}', "a point is not a list of 3 numbers"),
        ('{"type": "command", "text": "a", "box": [1, 2, NaN, 4]}', "box is not a number"),
        ('{"type": "command", "text": "a", "box": [1, -2, 3, 4]}', "box is -2"),
        ('{"type": "command", "text": "a", "stamp": "99999999999999999999"}', "nanoseconds"),
        ('{"type": "choose", "id": "a"}', "label is not a number"),
        ('{"type": "set", "name": "a", "value": Infinity}', "a switch, a number or a short text"),
        ('{"type": "correct", "id": "a", "mask": "%%%"}', "base64"),
        ('{"type": "view", "visible": 1}', "visible is 1; true or false"),
    ],
)
def test_what_cannot_be_read_is_named(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        read_request(text)


@given(kind=st.sampled_from(KINDS), fields=st.dictionaries(st.sampled_from(FIELDS), ANYTHING))
def test_any_message_is_read_or_refused(kind: str, fields: dict[str, Any]) -> None:
    with suppress(Malformed):
        read(kind, **fields)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(Malformed):
        read_request(text)


def test_a_binary_frame_has_kind_stamp_header_and_payload() -> None:
    frame = write_binary(Kind.MASK, 1_700_000_000_123_456_789, {"label": 2}, [b"ab", b"c"])
    kind, stamp, length = PREFIX.unpack_from(frame)
    assert (kind, stamp) == (Kind.MASK, 1_700_000_000_123_456_789)
    assert json.loads(frame[PREFIX.size : PREFIX.size + length]) == {"label": 2}
    assert frame[PREFIX.size + length :] == b"abc"


@pytest.mark.parametrize("field", ["id", "text", "session", "value"])
def test_half_characters_are_refused(field: str) -> None:
    kind = {"id": "show", "value": "set"}.get(field, "command")
    with pytest.raises(Malformed, match="half of a UTF-16 pair"):
        read(kind, **{field: "a\ud800"})


@pytest.mark.parametrize(("kind", "fields"), [("set", {"value": 10**400}), ("choose", {"label": 10**400})])
def test_a_number_of_any_length_is_refused(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(Malformed, match="number"):
        read(kind, **fields)
