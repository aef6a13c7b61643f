"""The engine interface: a frame and a command in, text and masks out.

An engine is any object with ``info``, ``encode`` and ``ask`` (:class:`Engine`); it needs no base class. A factory
creates it: ``factory(model=..., device=..., precision=..., options={...}, progress=...)``. docs/extend.md has an
example of 40 lines.

Only numpy is imported here, so that the node's process and a remote client can use these types without torch.
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
"""Most targets of one command: ``~/labels`` is mono8, and 0 is background."""

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

    For an empty mask x, y, width, height and area are 0.

    Args:
        label: Value of the mask in a labels image, from 1; 0 if no label is assigned yet.
        x: Left edge of the tight box, pixels.
        y: Top edge of the tight box, pixels.
        width: Width of the tight box, pixels.
        height: Height of the tight box, pixels.
        pixels: (height, width) uint8, exactly 0 or 255.
        score: Confidence in [0, 1].
        area: Number of pixels of the mask.
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
        mask: (H, W) bool, of the image's size. For other types (0 and 255, logits), the mask is where they are > 0.
        label: Value of the mask in a labels image.
        score: Confidence in [0, 1].

    Returns:
        The crop, with its own copy of the pixels.

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
    """One object that the answer marks in the image.

    Args:
        mask: Tight crop; may be empty (area 0).
        score: Confidence in [0, 1]. After ``lisa calibrate``, the probability that the mask is on the right object;
            else comparable within one model only.
        phrase: A name of the object, if the engine gives one; else empty.
        spans: Positions in ``Answer.text`` that mention the object. For LISA the position of ``[SEG]``.
        span: The first of ``spans``. The constructor needs only one of the two. To replace the spans of a region, pass
            ``span=None`` too.
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


# --- the command


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation.

    Args:
        question: The text as the model read it.
        answer: The answer; None before there is one.
        literal: Spans of the question that are the user's words, in which no token of the model is read; None: all.
    """

    question: str
    answer: str | None = None
    literal: tuple[Span, ...] | None = None


@dataclass
class Conversation:
    """Earlier turns. An engine appends the new turn after each answer.

    Args:
        max_turns: Most turns; the oldest ones are dropped.
        turns: Oldest first.
    """

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
        masks: (N, H, W) bool, of the image's size; or None.
        embeddings: (N, D) float; or None.
        scores: (N,) float in [0, 1]; or None.
        phrases: N names of the objects; or empty.
        crops: The masks as N crops, in place of ``masks``: 200 planes of 1920 x 1080 are 400 MB.
    """

    masks: NDArray[np.bool_] | None = None
    embeddings: NDArray[np.floating] | None = None
    scores: NDArray[np.floating] | None = None
    phrases: Sequence[str] = ()
    crops: Sequence[MaskCrop] = ()

    def __len__(self) -> int:
        """N; of embeddings alone, their number."""
        given = self.masks if self.masks is not None else self.crops or self.embeddings
        return 0 if given is None else len(given)

    def __bool__(self) -> bool:
        return True  # proposals of which there are none are proposals too


@dataclass(frozen=True, eq=False)
class Ask:
    """One command about one frame.

    Args:
        text: The command in words. May be empty if there are targets, points or a box.
        explain: Ask for the reason too.
        verbatim: Put ``text`` into the conversation template unchanged, with its leading and trailing blanks. The
            template adds the placeholder of the image. If False, the engine puts the text into a sentence that the
            model was trained on.
        targets: Names of objects, at most 255. Each one gets its own regions or is listed in ``Answer.absent``.
        proposals: Masks to choose from.
        points: (x, y) pixels: x right, y down, the centre of the top left pixel is (0, 0).
        point_labels: One for each point: 1 on the object, 0 not on it. Empty: all 1.
        box: (x, y, width, height) around the object, pixels.
        history: Earlier turns; the new turn is appended. One command at a time for each conversation.
        max_new_tokens: Most tokens of an answer; with targets see ``token_limit``.
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
        """Most tokens of one answer: ``max_new_tokens``, and 16 for each target."""
        return self.max_new_tokens + TOKENS_PER_TARGET * len(self.targets)

    @property
    def mask_limit(self) -> int:
        """Most masks of one answer: 32 or, if it is more, two for each target; 255 at most."""
        return min(max(MASKS_PER_ANSWER, 2 * len(self.targets)), MAX_TARGETS)


# --- the answer


@dataclass(frozen=True)
class Timings:
    """Seconds of wall-clock time spent on one answer.

    Args:
        encode_s: Image encoders during :meth:`Engine.ask`; 0 if they ran before.
        generate_s: Language model, until the last token.
        decode_s: Mask decoder and resizing.
        first_mask_s: From the call to the first mask; 0 without a mask.
        total_s: The whole call.
    """

    encode_s: float = 0.0
    generate_s: float = 0.0
    decode_s: float = 0.0
    first_mask_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer to one command.

    Args:
        text: The answer in words.
        regions: The marked objects, in the order of the text.
        absent: Targets that are not in the image, according to the engine.
        timings: Seconds.
        details: For tests and evaluation; None unless ``details=True`` was passed. LISA and its relatives give
            ``answer_ids`` (list of int, with ``</s>``), ``mask_logits`` (S, H, W) float32 before specks are removed,
            ``low_res_logits`` (S, 1, h, w) float32 and ``seg_probabilities`` (S,) float32 in [0, 1]. S is the number
            of mask tokens in the answer.
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
    """A step begins: ``encoding`` (image), ``reading`` (prompt), ``generating`` (answer) or ``decoding`` (mask)."""

    name: str


@dataclass(frozen=True)
class Token:
    """A new token. ``text`` is the whole answer so far."""

    text: str


@dataclass(frozen=True, eq=False)
class Regions:
    """New regions, as soon as they exist; each region is sent once.

    A region of the answer with the same mask and more spans is the same one: the text mentioned it again.
    """

    regions: Sequence[Region]


Event = Stage | Token | Regions
OnEvent = Callable[[Event], None]
ShouldStop = Callable[[], bool]


# --- the engine


@dataclass(frozen=True)
class EngineInfo:
    """Description of an engine.

    Args:
        name: Name of the model, for logs and results.
        device: cpu, cuda:0, ...
        precision: bf16, fp16, fp32, int8, nf4, or another name that the engine defines.
        capabilities: A subset of ``CAPABILITIES``.
    """

    name: str
    device: str = "cpu"
    precision: str = "fp32"
    capabilities: frozenset[str] = frozenset()


@runtime_checkable
class Engine(Protocol):
    """Segments the object that a command describes in an image. Calls are made one at a time."""

    @property
    def info(self) -> EngineInfo: ...

    def encode(self, rgb: NDArray[np.uint8]) -> Any:
        """Process a frame once, for any number of commands.

        Args:
            rgb: uint8 (H, W, 3), RGB. Neither the caller nor the engine changes it afterwards.

        Returns:
            A value that only the engine reads.

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
        """Answer a command about an encoded frame.

        Args:
            encoded: Result of :meth:`encode`.
            ask: The command. It uses no capability that ``info.capabilities`` lacks.
            on_event: Called with each Stage, Token and Regions.
            should_stop: Called between steps. If it returns True, the engine raises ``Cancelled``.
            details: Fill ``Answer.details``.

        Returns:
            The answer. Its masks have the size of the frame.

        Raises:
            CommandError: The command cannot be used.
            Cancelled: ``should_stop`` returned True.
            OutOfMemory: The device has too little memory.
        """


@runtime_checkable
class TeacherForced(Protocol):
    """An engine with the capability ``teacher_forced``: it can score the masks of a given answer."""

    def teacher_forced(self, encoded: Any, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """Mask that the model gives when it is given the true answers.

        Args:
            encoded: Result of :meth:`Engine.encode`.
            asks: The commands of one conversation.
            answers: The true answer to each command.

        Returns:
            (H, W) bool: union of the masks of the last answer, with the post-processing of :meth:`Engine.ask`.
        """


class Factory(Protocol):
    """Creates an engine.

    It is called with keyword arguments only. ``progress`` may be called with the loaded share, in [0, 1].
    """

    def __call__(
        self,
        *,
        model: str,
        device: str,
        precision: str,
        options: dict[str, Any],
        progress: Callable[[float], None] | None,
    ) -> Engine: ...
