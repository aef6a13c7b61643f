"""Reading of a language model's answer while it streams: every object that closes becomes a find at once.

Models break their own format in many ways (a list with sources is in docs/engines.md). So objects are not parsed as
JSON: they are read by key, and whatever follows a key and is no list of numbers makes only that object unusable.
No input raises an error, and no box leaves the picture.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lisa_ros.grounded.dialects import Dialect, Form
from lisa_ros.grounded.finds import Box, Find, Point, Size

LONGEST_OBJECT = 4096
"""Characters; what is longer is not an object."""

BLANKS = 32
"""So many blank characters in a row are a loop that a schema has caused (vllm#38696)."""

DUPLICATE_IOU = 0.9
"""A box that overlaps an earlier one as much is the same object, told again."""

FAR = 10
"""A number beyond so many times the frame is a repetition of digits, no coordinate to be clipped."""

_KEYS = re.compile(r"""["']?\b(?P<key>bbox_2d|box_2d|bbox|box|point_2d|point|label)\b["']?\s*[:=]\s*""")
_LIST = re.compile(r"\[([^\[\]{}]*)")
_ONLY_NUMBERS = re.compile(r"[\s\d.,\"'eE+-]*")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"|\'([^\'"\\]*)\'')
_PRESENT = re.compile(r'"present"\s*:\s*(true|false)', re.IGNORECASE)
_REASON = re.compile(r'"(?:reason|explanation|think)"\s*:\s*"((?:[^"\\]|\\.)*)')
_MARKS = re.compile(r"```\w*|<[^<>]{0,80}>")
_BOX_TOKENS = re.compile(
    r"(?:<\|object_ref_start\|>|<ref>)?(?P<label>[^<>()\[\]\n]{0,80}?)(?:<\|object_ref_end\|>|</ref>)?\s*"
    r"(?:<\|box_start\|>|<box>)?\s*"
    r"(?:\((?P<p>[\d.,\s]+)\)\s*,\s*\((?P<q>[\d.,\s]+)\)|\[\[?(?P<r>[\d.,\s]+)\])\s*(?:<\|box_end\|>|\]?\s*</box>)?"
)
_POINT_ELEMENT = re.compile(r"<points?\b(?P<attributes>[^>]*)>(?P<label>[^<]*)</points?>")
_ATTRIBUTE = re.compile(r"(\w+)\s*=\s*[\"“]([^\"”]*)[\"”]")


@dataclass(frozen=True)
class Raw:
    """One object as the model wrote it. span: of its coordinates, in the answer's text."""

    label: str
    box: tuple[float, ...] | None
    point: tuple[float, ...] | None
    span: tuple[int, int]


@dataclass
class AnswerReader:
    """Reads one answer.

    Args:
        dialect: Of the model.
        sent: (height, width) of the picture as sent.
        size: (height, width) of the camera image.
        max_objects: Most finds.
    """

    dialect: Dialect
    sent: Size
    size: Size
    max_objects: int = 8

    def __post_init__(self) -> None:
        self.text = ""
        self.finds: list[Find] = []
        self.spans: list[tuple[int, int]] = []
        self.dropped: Counter[str] = Counter()  # by reason
        self._read_to = 0  # what lies before was taken or given up
        self._searched_to = 0
        self._logprobs: list[tuple[int, float]] = []  # end in the text, of each token
        self._begun = False  # what the model thinks first is skipped
        self._begun_at = 0

    @property
    def complete(self) -> bool:
        """Whether further text can bring no further find: there are enough, or the model repeats itself."""
        return len(self.finds) >= self.max_objects or self.dropped.total() >= 2 * self.max_objects

    @property
    def has_logprobs(self) -> bool:
        """Whether the model gave log probabilities."""
        return bool(self._logprobs)

    @property
    def loops(self) -> bool:
        """Whether the model writes nothing but blank characters."""
        return len(self.text) - len(self.text.rstrip()) >= BLANKS

    @property
    def absent(self) -> bool:
        """Whether the model said that nothing is there before it drew anything."""
        present = _PRESENT.search(self.text, self._begun_at, self.spans[0][0] if self.spans else len(self.text))
        return present is not None and present[1].lower() == "false"

    def feed(self, text: str, logprob: float | None = None) -> list[Find]:
        """Take in a piece of the answer.

        Args:
            text: The piece.
            logprob: Natural logarithm of its probability, if the piece is one token and the model says.

        Returns:
            The finds that this piece completes.
        """
        self.text += text
        if logprob is not None:
            self._logprobs.append((len(self.text), logprob))
        if not self._begun and not self._begin():
            return []
        return self._take(last=False)

    def finish(self) -> list[Find]:
        """The finds that the end of the answer completes."""
        if not self._begun and "<think>" in self.text:  # cut off before it answered
            return []
        return self._take(last=True)

    @property
    def reason(self) -> str:
        """The reason that the answer gives, as far as it is written."""
        if self.dialect.thinks:
            thought = re.search(r"<think>(.*?)(?:</think>|$)", self.text, re.DOTALL)
            return " ".join(thought[1].split()) if thought else ""
        reasons = _REASON.findall(self.text)
        return " ".join(_unescaped(reasons[-1]).split()) if reasons else ""

    @property
    def words(self) -> str:
        """What the whole answer says beside the objects: its reason, else the text around them."""
        if self.reason or self.dialect.thinks:
            return self.reason
        text = _MARKS.sub(" ", self.text.rpartition("</think>")[2])
        if self.dialect.form != "json":
            return "" if self.finds else " ".join(text.split())
        before, after = re.split(r"[{\[]", text, maxsplit=1)[0], re.split(r"[}\]]", text)[-1]
        parts = [before] if before == text else [before, after]
        return " ".join(" ".join(part for part in parts if '"' not in part).split())

    def _begin(self) -> bool:
        """Skip what the model thinks: thoughts are no answer, also where they hold boxes."""
        text = self.text.lstrip()
        if not self.dialect.thinks and not text.startswith("<think>") and not "<think>".startswith(text):
            self._begun = True
            return True
        for mark in ("<answer>", "</think>"):
            if mark in self.text:
                self._read_to = self._searched_to = self._begun_at = self.text.index(mark) + len(mark)
                self._begun = True
        return self._begun

    def _take(self, last: bool) -> list[Find]:
        new = []
        for raw in _READERS[self.dialect.form](self, last):
            if self.complete:
                break
            find = self._find(raw)
            if find is not None:
                self.finds.append(find)
                self.spans.append(raw.span)
                new.append(find)
        return new

    def _find(self, raw: Raw) -> Find | None:
        box = self._camera_box(raw.box) if raw.box is not None else None
        if raw.box is not None and box is None:
            self.dropped["coordinates"] += 1
            return None
        point = self._camera_point(raw.point, box) if raw.point is not None else None
        if box is None and point is None:
            self.dropped["coordinates"] += 1
            return None
        if any(_same(box, point, find) for find in self.finds):
            self.dropped["duplicate"] += 1
            return None
        points = (point,) if point is not None else ()
        return Find(raw.label, box, points, (1,) * len(points), self._probability(raw.span))

    def _camera_box(self, numbers: tuple[float, ...]) -> Box | None:
        """The box in camera pixels: corners sorted, clipped to the picture, at least one pixel; None if unusable."""
        if len(numbers) != 4 or not self._near(numbers):
            return None
        (height, width), (full_x, full_y) = self.size, self.dialect.frame.span(self.sent)
        x1, x2 = _interval(numbers[0] * width / full_x, numbers[2] * width / full_x, width)
        y1, y2 = _interval(numbers[1] * height / full_y, numbers[3] * height / full_y, height)
        return x1, y1, x2, y2

    def _camera_point(self, numbers: tuple[float, ...], box: Box | None) -> Point | None:
        """The point in camera pixels; None outside of its box, or of the picture."""
        if len(numbers) != 2 or not self._near(numbers):
            return None
        (height, width), (full_x, full_y) = self.size, self.dialect.frame.span(self.sent)
        x, y = numbers[0] * width / full_x, numbers[1] * height / full_y
        x1, y1, x2, y2 = box or (0.0, 0.0, float(width), float(height))
        return (x, y) if x1 <= x <= x2 and y1 <= y <= y2 else None

    def _near(self, numbers: tuple[float, ...]) -> bool:
        most = FAR * max(self.dialect.frame.span(self.sent))
        return all(math.isfinite(number) and abs(number) <= most for number in numbers)

    def _probability(self, span: tuple[int, int]) -> float:
        """exp of the mean log probability of the tokens in ``span`` that hold digits; 1 if the model gave none."""
        logprobs, begin = [], 0
        for end, logprob in self._logprobs:
            if end > span[0] and begin < span[1] and any(c.isdigit() for c in self.text[begin:end]):
                logprobs.append(logprob)
            begin = end
        if not logprobs:
            return 1.0
        mean = sum(logprobs) / len(logprobs)
        return min(max(math.exp(min(mean, 0.0)), 0.0), 1.0) if not math.isnan(mean) else 1.0


def _interval(a: float, b: float, size: int) -> tuple[float, float]:
    """The interval from a to b inside [0, size], sorted, at least 1 long."""
    low, high = sorted((min(max(a, 0.0), float(size)), min(max(b, 0.0), float(size))))
    if high - low < 1:
        low = min(max((low + high) / 2 - 0.5, 0.0), size - 1.0)
        high = low + 1
    return low, high


def _same(box: Box | None, point: Point | None, find: Find) -> bool:
    if box is None or find.box is None:
        return box is None and find.box is None and find.points == (point,)
    width = min(box[2], find.box[2]) - max(box[0], find.box[0])
    height = min(box[3], find.box[3]) - max(box[1], find.box[1])
    if width <= 0 or height <= 0:
        return False
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, find.box))
    return width * height > DUPLICATE_IOU * (areas - width * height)


# --- one reader for each form


def _json_objects(reader: AnswerReader, last: bool) -> Iterator[Raw]:
    """Objects with keys, each as soon as its brace closes."""
    text = reader.text
    while True:
        end = text.find("}", max(reader._searched_to, reader._read_to))
        if end < 0:
            reader._searched_to = len(text)
            break
        reader._searched_to = end + 1
        segment = text[reader._read_to : end + 1]
        if not _is_whole(segment):
            if len(segment) > LONGEST_OBJECT:
                reader._read_to = end + 1
            continue
        begin, reader._read_to = reader._read_to, end + 1
        yield from _by_keys(segment, begin)
    if last and "}" in text[reader._read_to :]:
        begin, reader._read_to = reader._read_to, len(text)
        yield from _by_keys(text[begin : begin + LONGEST_OBJECT].rpartition("}")[0], begin)


def _is_whole(segment: str) -> bool:
    """Whether the last brace of a segment closes an object: not where it stands for the bracket of a list."""
    first = _KEYS.search(segment)
    if first is None:
        return True
    inner = segment[max(segment.rfind("{", 0, first.start()), 0) :]
    return inner.count("[") <= inner.count("]") or len(segment) > LONGEST_OBJECT


def _by_keys(segment: str, offset: int) -> Iterator[Raw]:
    """The objects of a segment; a key that comes again begins the next object."""
    fields: dict[str, str | tuple[float, ...]] = {}
    span: tuple[int, int] | None = None
    for match in _KEYS.finditer(segment):
        key = {"p": "point", "l": "label"}.get(match["key"][0], "box")
        if key in fields:
            if "box" in fields or "point" in fields:
                yield _raw(fields, span, offset)
            fields, span = {}, None
        if key == "label":
            fields[key] = _label_at(segment, match.end())
            continue
        fields[key], end = _numbers_at(segment, match.end())
        span = (match.start() if span is None else span[0], end)
    if "box" in fields or "point" in fields:
        yield _raw(fields, span, offset)


def _raw(fields: dict[str, str | tuple[float, ...]], span: tuple[int, int] | None, offset: int) -> Raw:
    begin, end = span or (0, 0)
    label, box, point = fields.get("label", ""), fields.get("box"), fields.get("point")
    return Raw(
        label if isinstance(label, str) else "",
        box if isinstance(box, tuple) else None,
        point if isinstance(point, tuple) else None,
        (begin + offset, end + offset),
    )


def _numbers_at(text: str, begin: int) -> tuple[tuple[float, ...], int]:
    """The numbers of the list that begins here, also where some are quoted, and its end; none if it is another list."""
    numbers = _LIST.match(text, begin)
    if numbers is None or not _ONLY_NUMBERS.fullmatch(numbers[1]):
        return (), begin
    return tuple(float(number) for number in _NUMBER.findall(numbers[1])[:5]), numbers.end()


def _label_at(text: str, begin: int) -> str:
    string = _STRING.match(text, begin)
    return _clean(_unescaped(string[1] or string[2] or "")) if string else ""


def _box_tokens(reader: AnswerReader, last: bool) -> Iterator[Raw]:
    """``name(x1,y1),(x2,y2)``, with or without the special tokens around the parts."""
    label = ""
    for match in _BOX_TOKENS.finditer(reader.text, reader._read_to):
        if match.end() == len(reader.text) and not last:
            break  # more of it may come
        parts = match["r"] if match["r"] is not None else f"{match['p']},{match['q']}"
        reader._read_to = match.end()
        label = _clean(match["label"]) or label
        numbers = tuple(float(number) for number in _NUMBER.findall(parts)[:5])
        yield Raw(label, numbers, None, (match.start(), match.end()))


def _points(reader: AnswerReader, last: bool) -> Iterator[Raw]:
    """``<point x="12.5" y="40" alt="cup">``, and ``<points coords="1 1 512 300">`` with index, x and y."""
    for match in _POINT_ELEMENT.finditer(reader.text, reader._read_to):
        reader._read_to = match.end()
        attributes = dict(_ATTRIBUTE.findall(match["attributes"]))
        label = _clean(match["label"] or attributes.get("alt", ""))
        xy = {name: value for name, value in attributes.items() if re.fullmatch(r"[xy]\d*", name)}
        pairs = [(xy[name], xy.get(f"y{name[1:]}", "")) for name in xy if name[0] == "x"]
        pairs += [(x, y) for x, y in re.findall(r"\b\d+ (\d{3,4}) (\d{3,4})\b", attributes.get("coords", ""))]
        for x, y in pairs:
            numbers = tuple(float(n) for n in (x.strip(), y.strip()) if _NUMBER.fullmatch(n))
            yield Raw(label, None, numbers, (match.start(), match.end()))


_READERS: dict[Form, Callable[[AnswerReader, bool], Iterator[Raw]]] = {
    "json": _json_objects,
    "box_tokens": _box_tokens,
    "points": _points,
}


def _unescaped(text: str) -> str:
    """The content of a JSON string; as it is where its escapes are broken."""
    try:
        return str(json.loads(f'"{text}"', strict=False))
    except ValueError:
        return text.replace("\\", "")


def _clean(label: str) -> str:
    """One short line."""
    return " ".join("".join(c if c.isprintable() else " " for c in label).split())[:80]
