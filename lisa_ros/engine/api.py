"""The engine interface: a frame and a question in, text and masks out.

An engine is any object with ``info``, ``encode`` and ``ask`` (:class:`Engine`); it needs no base class. A factory
makes it: ``factory(model=..., device=..., precision=..., options={...}, progress=...)``. docs/extend.md shows
one in 40 lines.

Only numpy is imported here, so that the node's process and a remote client can use these values without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

EXPLAIN, HISTORY, TARGETS, PROPOSALS, POINTS = "explain", "history", "targets", "proposals", "points"
TEACHER_FORCED = "teacher_forced"
CAPABILITIES = frozenset({EXPLAIN, HISTORY, TARGETS, PROPOSALS, POINTS, TEACHER_FORCED})
"""What an engine may support beyond a command in words. ``points`` covers points and a box."""

MAX_TARGETS = 255
"""Targets of one ask: ``~/labels`` is mono8 and 0 is background."""

MAX_LABELS = 255
"""Regions of one answer, for the same reason."""

MASKS_PER_ANSWER = 32
TOKENS_PER_TARGET = 16

Span = tuple[int, int]
"""Begin and end (exclusive), in Unicode characters of the answer's text."""


# --- masks


@dataclass(frozen=True, eq=False)
class MaskCrop:
    """One mask, cut to its tight box, in pixels of the image it belongs to.

    Args:
        label: Value of the mask in a labels image, from 1; 0 until it has one.
        x: Left edge of the tight box, pixels. 0 for an empty mask, as y, width and height.
        y: Top edge of the tight box, pixels.
        width: Pixels.
        height: Pixels.
        pixels: (height, width) uint8, exactly 0 or 255.
        score: Confidence in [0, 1].
        area: Pixels of the mask.
        centroid: (x, y) mean pixel position; x right, y down, the centre of the top left pixel is (0, 0).
    """

    label: int
    x: int
    y: int
    width: int
    height: int
    pixels: NDArray[np.uint8]
    score: float
    area: int
    centroid: tuple[float, float]


def crop_mask(mask: NDArray[np.bool_], label: int = 0, score: float = 0.0) -> MaskCrop:
    """Cut a mask to its tight box.

    Args:
        mask: (H, W) bool. Of numbers, such as 0 and 255 or logits, what is above 0 is covered.
        label: See :class:`MaskCrop`.
        score: In [0, 1].

    Raises:
        ValueError: The mask does not have two dimensions.
    """
    if mask.ndim != 2:
        raise ValueError(f"a mask has the shape {mask.shape}; it must be (height, width)")
    if mask.dtype != np.bool_:
        mask = mask > 0
    columns = np.flatnonzero(mask.any(axis=0))
    if columns.size == 0:
        return MaskCrop(label, 0, 0, 0, 0, np.zeros((0, 0), np.uint8), score, 0, (0.0, 0.0))
    rows = np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    crop = mask[y : int(rows[-1]) + 1, x : int(columns[-1]) + 1]
    height, width = crop.shape
    # Sums along the axes instead of np.nonzero: no index arrays as large as the object.
    per_row, per_column = crop.sum(axis=1, dtype=np.int64), crop.sum(axis=0, dtype=np.int64)
    area = int(per_row.sum())
    centroid = (x + float(per_column @ np.arange(width)) / area, y + float(per_row @ np.arange(height)) / area)
    pixels = np.ascontiguousarray(crop).view(np.uint8) * np.uint8(255)
    return MaskCrop(label, x, y, width, height, pixels, score, area, centroid)


@dataclass(frozen=True, eq=False)
class Region:
    """One thing that the answer marks in the image.

    Args:
        mask: Tight crop; may be empty (area 0).
        score: Confidence in [0, 1]; comparable within one engine only.
        phrase: What it is in words, where the engine knows; else empty.
        spans: Where ``Answer.text`` mentions it. For LISA the ``[SEG]`` itself.
        span: The first of ``spans``. Either may be given; to replace the spans of a region, pass ``span=None`` too.
    """

    mask: MaskCrop
    score: float = 0.0
    phrase: str = ""
    spans: tuple[Span, ...] = ()
    span: Span | None = None

    def __post_init__(self) -> None:
        spans = tuple((int(begin), int(end)) for begin, end in self.spans)
        if self.span is not None:
            first = (int(self.span[0]), int(self.span[1]))
            spans = (first, *(span for span in spans if span != first))
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "span", spans[0] if spans else None)


# --- what is asked


@dataclass(frozen=True)
class Turn:
    """One exchange: the question as the model read it, and its answer (None while it is open)."""

    question: str
    answer: str | None = None


@dataclass
class Conversation:
    """Earlier turns, oldest first. At most ``max_turns`` are kept; an engine appends the new one after each answer."""

    max_turns: int = 8
    turns: list[Turn] = field(default_factory=list)

    def append(self, turn: Turn) -> None:
        self.turns.append(turn)
        del self.turns[: max(len(self.turns) - self.max_turns, 0)]

    def clear(self) -> None:
        self.turns.clear()


@dataclass(frozen=True, eq=False)
class Proposals:
    """Candidate masks that an engine may choose from.

    Args:
        masks: (N, H, W) bool at the image's size, or None.
        embeddings: (N, D) float, or None.
        scores: (N,) float in [0, 1], or None.
        phrases: N words for them, or none at all.
    """

    masks: NDArray[np.bool_] | None = None
    embeddings: NDArray[np.floating] | None = None
    scores: NDArray[np.floating] | None = None
    phrases: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Ask:
    """One question about one frame.

    Args:
        text: The command as a person says it. May be empty where ``targets`` are given.
        explain: Ask for the reason too.
        verbatim: The text goes into the conversation's template character by character, outer blanks included; the
            image placeholder is not part of it. Otherwise the engine puts it into the sentences it was trained on.
        targets: Names of things to find; each gets its own regions or is listed in ``Answer.absent``. At most 255.
        proposals: Masks to choose from.
        points: (x, y) pixels: x right, y down, the centre of the top left pixel is (0, 0).
        point_labels: One for each point: 1 on the thing, 0 not on it. Empty: all 1.
        box: (x, y, width, height) pixels around the thing.
        history: Earlier turns; the new turn is appended. One ask at a time for each conversation.
        max_new_tokens: The answer is cut off here; with targets see ``token_limit``.
    """

    text: str = ""
    explain: bool = False
    verbatim: bool = False
    targets: Sequence[str] = ()
    proposals: Proposals | None = None
    points: Sequence[tuple[float, float]] = ()
    point_labels: Sequence[int] = ()
    box: tuple[float, float, float, float] | None = None
    history: Conversation | None = None
    max_new_tokens: int = 512

    @property
    def token_limit(self) -> int:
        """Tokens of one answer: grows with the number of targets, since each needs words of its own."""
        return self.max_new_tokens + TOKENS_PER_TARGET * len(self.targets)

    @property
    def mask_limit(self) -> int:
        """Masks of one answer: 32, or two for each target where that is more, and never more than labels."""
        return min(max(MASKS_PER_ANSWER, 2 * len(self.targets)), MAX_TARGETS)


# --- what is answered


@dataclass(frozen=True)
class Timings:
    """Seconds of wall-clock time spent on one answer.

    Args:
        encode_s: Image towers; 0 where the frame was encoded before.
        generate_s: Language model, until the last token.
        decode_s: Mask decoder and resizing.
        first_mask_s: From the call to the first mask; 0 without one.
        total_s: The whole call.
    """

    encode_s: float = 0.0
    generate_s: float = 0.0
    decode_s: float = 0.0
    first_mask_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one ask.

    Args:
        text: What the model says.
        regions: What it marks, in the order of the text.
        absent: Phrases of targets that are said not to be in the image.
        timings: Seconds.
        details: For tests and evaluation, filled where ``details=True`` was asked. LISA and its relatives give
            ``answer_ids`` (list of int, with ``</s>``), ``mask_logits`` (S, H, W) float32 before specks are removed,
            ``low_res_logits`` (S, 1, h, w) float32 and ``seg_probabilities`` (S,) float32; S counts the answer's mask
            tokens.
    """

    text: str = ""
    regions: Sequence[Region] = ()
    absent: Sequence[str] = ()
    timings: Timings = field(default_factory=Timings)
    details: dict[str, Any] | None = None

    @property
    def found(self) -> bool:
        """Whether a region has at least one pixel."""
        return any(region.mask.area for region in self.regions)


@dataclass(frozen=True)
class Stage:
    """What begins now: ``encoding`` (image), ``reading`` (prompt), ``generating`` (answer) or ``decoding`` (mask)."""

    name: str


@dataclass(frozen=True)
class Token:
    """The whole answer so far, as text."""

    text: str


@dataclass(frozen=True, eq=False)
class Regions:
    """New regions, as soon as they exist; each region is sent once."""

    regions: Sequence[Region]


Event = Stage | Token | Regions
OnEvent = Callable[[Event], None]
ShouldStop = Callable[[], bool]


# --- the engine


@dataclass(frozen=True)
class EngineInfo:
    """What serves.

    Args:
        name: Of the model, for people and for results.
        device: cpu, cuda:0, ...
        precision: bf16, fp16, fp32, int8, nf4, or the engine's own word.
        capabilities: Some of ``CAPABILITIES``.
    """

    name: str
    device: str = "cpu"
    precision: str = "fp32"
    capabilities: frozenset[str] = frozenset()


@runtime_checkable
class Engine(Protocol):
    """Finds what a command means in an image. One call at a time."""

    @property
    def info(self) -> EngineInfo: ...

    def encode(self, rgb: NDArray[np.uint8]) -> Any:
        """Look at a frame once, for any number of asks.

        Args:
            rgb: uint8 (H, W, 3). The caller does not change it afterwards; the engine never does.

        Returns:
            A value that only the engine understands.

        Raises:
            ImageError: The frame cannot be used.
            OutOfMemory: The device has too little memory.
        """

    def ask(
        self,
        encoded: Any,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
    ) -> Answer:
        """Answer a question about an encoded frame.

        Args:
            encoded: From :meth:`encode`.
            ask: The question. It uses nothing that ``info.capabilities`` lacks.
            on_event: Called with Stage, Token and Regions as they come.
            should_stop: Asked between steps; when it returns True, raise ``Cancelled``.
            details: Fill ``Answer.details``.

        Raises:
            CommandError: The question cannot be used.
            Cancelled: ``should_stop`` returned True.
            OutOfMemory: The device has too little memory.
        """


@runtime_checkable
class TeacherForced(Protocol):
    """An engine with the capability ``teacher_forced``: it can score the masks of a given answer."""

    def teacher_forced(self, encoded: Any, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """Union of the masks of the last of ``answers``, each the true answer to the ask of the same index.

        Returns:
            (H, W) bool, after the same post-processing as a free answer's masks.
        """


class Factory(Protocol):
    """Makes an engine; called with keywords only."""

    def __call__(
        self,
        *,
        model: str,
        device: str,
        precision: str,
        options: dict[str, Any],
        progress: Callable[[float], None] | None,
    ) -> Engine: ...
