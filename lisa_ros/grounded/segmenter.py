"""A locator and a cutter as one engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import (
    EXPLAIN,
    HISTORY,
    POINTS,
    Answer,
    Ask,
    EngineInfo,
    OnEvent,
    Region,
    Regions,
    ShouldStop,
    Span,
    Stage,
    Timings,
    Token,
    Turn,
    crop_mask,
)
from lisa_ros.errors import Cancelled, CommandError
from lisa_ros.grounded.finds import Box, Cut, Cutter, Find, Located, Locator
from lisa_ros.perception.masks import mask_score

YES = 0.5
"""Below this probability of yes, a mask is not what the command describes."""

NO_OBJECT = 0.5
"""Below this probability of the cutter, there is no object at the prompt."""


@dataclass(frozen=True, eq=False)
class EncodedFrame:
    """A frame that locator and cutter have processed.

    Args:
        rgb: uint8 (H, W, 3).
        view: The locator's.
        embedding: The cutter's; None without a cutter.
    """

    rgb: NDArray[np.uint8]
    view: Any
    embedding: Any


@dataclass(eq=False)
class _Object:
    """One object of the answer while it grows."""

    find: Find
    cut: Cut
    region: Region
    probability: float


@dataclass(eq=False)
class _Draft:
    """An answer while it grows."""

    on_event: OnEvent
    begun: float
    objects: list[_Object] = field(default_factory=list)
    text: str = ""
    decode_s: float = 0.0
    first_mask_s: float = 0.0
    generates: bool = False  # the stage was announced


class GroundedSegmenter:
    """The engine ``grounded``.

    Args:
        locator: Finds objects.
        cutter: Cuts their masks; None if the locator cuts them itself.
        device: Of the models, for ``info``.
        precision: Of the models, for ``info``.
        check: Ask the locator about each mask whether it shows what the command describes.
        use_points: Give the locator's points to the cutter, beside its boxes.
        capabilities: Beside points and boxes.
        guard: A context manager around the models' work, which turns errors about memory into OutOfMemory.
    """

    def __init__(
        self,
        locator: Locator,
        cutter: Cutter | None,
        *,
        device: str = "cpu",
        precision: str = "fp32",
        check: bool = True,
        use_points: bool = True,
        capabilities: frozenset[str] = frozenset({EXPLAIN, HISTORY}),
        guard: Callable[[str], Any] | None = None,
    ) -> None:
        self.locator = locator
        self.cutter = cutter
        self._check = check
        self._use_points = use_points
        self._device, self._precision = device, precision
        self._capabilities = capabilities | ({POINTS} if cutter is not None else frozenset())
        self._guard = guard or nullcontext

    @property
    def info(self) -> EngineInfo:
        name = f"{self.locator.name} + {self.cutter.name}" if self.cutter is not None else self.locator.name
        return EngineInfo(name, self._device, self._precision, self._capabilities)

    def remarks(self) -> list[str]:
        """What the locator has noticed while it answered, for ``lisa check``."""
        own = getattr(self.locator, "remarks", None)
        return own() if own is not None else []

    def encode(self, rgb: NDArray[np.uint8]) -> EncodedFrame:
        """See :meth:`Engine.encode`. The cutter's embedding is kept: a second command on the frame encodes nothing."""
        with self._guard("encoding an image"):
            own = rgb.copy() if rgb.flags.writeable else rgb
            embedding = self.cutter.embed(own) if self.cutter is not None else None
            return EncodedFrame(own, self.locator.view(own), embedding)

    def ask(
        self,
        encoded: EncodedFrame,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
    ) -> Answer:
        """See :meth:`Engine.ask`."""
        draft = _Draft(on_event or _ignore, time.perf_counter())
        stop = should_stop or _never
        with self._guard("answering a command"):
            located = self._located(encoded, ask, draft, stop)
            located_s = time.perf_counter() - draft.begun - draft.decode_s
            if self._check and not _prompted(ask):
                self._confirm(encoded, ask, draft, stop)
        answer = self._answer(ask, draft, located, located_s)
        if ask.history is not None and located.question:
            ask.history.append(Turn(located.question, located.raw))
        return replace(answer, details=_details(draft.objects, encoded.rgb.shape[:2])) if details else answer

    def _located(self, encoded: EncodedFrame, ask: Ask, draft: _Draft, stop: ShouldStop) -> Located:
        """Cut every find as soon as it is known."""
        if _prompted(ask):
            draft.on_event(Stage("decoding"))
            self._cut(encoded, _find_of(ask, encoded.rgb.shape[:2]), draft, stop)
            return Located()
        if not ask.text.strip():
            raise CommandError("the command is empty; say what to find, for example 'the thing to drink from'")
        draft.on_event(Stage("reading"))

        def on_words(words: str) -> None:
            if not draft.generates:
                draft.generates = True
                draft.on_event(Stage("generating"))
            text = _joined(_listing(draft.objects)[0], words)
            if text != draft.text:
                draft.text = text
                draft.on_event(Token(text))

        def on_find(find: Find) -> None:
            self._cut(encoded, find, draft, stop)

        return self.locator.locate(encoded.view, ask, on_find, on_words, stop)

    def _cut(self, encoded: EncodedFrame, find: Find, draft: _Draft, stop: ShouldStop) -> None:
        """The find's mask, announced at once; nothing if the cutter sees no object there."""
        if stop():
            raise Cancelled("canceled before a mask was cut")
        begun = time.perf_counter()
        cut = self._cut_of(encoded, find)
        draft.decode_s += time.perf_counter() - begun
        mask = cut.logits > 0
        if cut.object_probability < NO_OBJECT or not mask.any():
            return
        probability = find.probability
        object_ = _Object(find, cut, Region(crop_mask(mask)), probability)
        draft.objects.append(object_)
        draft.text, spans = _listing(draft.objects)
        object_.region = Region(
            object_.region.mask, mask_score(probability, cut.logits), find.label, spans=(spans[-1],)
        )
        draft.first_mask_s = draft.first_mask_s or time.perf_counter() - draft.begun
        draft.on_event(Token(draft.text))
        draft.on_event(Regions([object_.region]))

    def _cut_of(self, encoded: EncodedFrame, find: Find) -> Cut:
        if find.logits is not None:
            return Cut(find.logits, find.logits)
        if self.cutter is None:
            raise CommandError(f"{self.locator.name} gives boxes, and the model has no cutter; add one to engine.json")
        if not self._use_points and find.box is not None:
            find = replace(find, points=(), point_labels=())
        return self.cutter.cut(encoded.embedding, [find], self.locator.multimask)[0]

    def _confirm(self, encoded: EncodedFrame, ask: Ask, draft: _Draft, stop: ShouldStop) -> None:
        """Drop masks that the locator does not confirm; the probability of the others becomes that of its yes."""
        confirmed = []
        for object_ in draft.objects:
            probability = self.locator.confirm(encoded.rgb, object_.find, ask, object_.cut.logits > 0, stop)
            if probability is not None and probability < YES:
                continue
            if probability is not None:
                object_.probability = probability
                score = mask_score(probability, object_.cut.logits)
                object_.region = replace(object_.region, score=score)
            confirmed.append(object_)
        draft.objects = confirmed

    def _answer(self, ask: Ask, draft: _Draft, located: Located, located_s: float) -> Answer:
        """The answer; spans count again, since an object may have been dropped."""
        listing, spans = _listing(draft.objects)
        regions = []
        for object_, span in zip(draft.objects, spans, strict=True):
            if object_.region.span != span:
                object_.region = replace(object_.region, spans=(span,), span=None)
            regions.append(object_.region)
        total_s = time.perf_counter() - draft.begun
        timings = Timings(0.0, located_s, draft.decode_s, draft.first_mask_s if regions else 0.0, total_s)
        if not regions:
            wanted = _short(ask.text)
            nothing = f"There is nothing like that in the picture: {wanted}." if wanted else "There is no object there."
            return Answer(located.words or nothing, (), (wanted,) if wanted else (), timings)
        return Answer(_joined(listing, located.words if ask.explain else ""), tuple(regions), (), timings)


def _prompted(ask: Ask) -> bool:
    """Whether points or a box say where the object is, so that no locator is needed."""
    return bool(ask.points) or ask.box is not None


def _find_of(ask: Ask, size: tuple[int, int]) -> Find:
    """The find that points or a box of a command describe. Raises CommandError outside of the picture."""
    height, width = size
    box: Box | None = None
    if ask.box is not None:
        x, y, w, h = ask.box
        box = (max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height)))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise CommandError(f"the box {ask.box} lies outside of the picture of {width} x {height} pixels")
    for x, y in ask.points:
        if not (0 <= x < width and 0 <= y < height):
            raise CommandError(f"the point ({x:g}, {y:g}) lies outside of the picture of {width} x {height} pixels")
    labels = tuple(ask.point_labels) or (1,) * len(ask.points)
    return Find(_short(ask.text) or "object", box, tuple(ask.points), labels)


def _listing(objects: list[_Object]) -> tuple[str, list[Span]]:
    """The names of the objects as text, and where each one is in it."""
    text, spans = "", []
    for object_ in objects:
        text += ", " if text else ""
        name = object_.find.label or "object"
        spans.append((len(text), len(text) + len(name)))
        text += name
    return f"{text}." if text else "", spans


def _joined(listing: str, words: str) -> str:
    return " ".join(part for part in (listing, words) if part)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 200 else f"{words[:197]}..."


def _details(objects: list[_Object], size: tuple[int, int]) -> dict[str, Any]:
    """See :attr:`Answer.details`; ``predicted_ious`` (S,) are the cutter's."""
    height, width = size
    logits = [object_.cut.logits for object_ in objects]
    low_res = [object_.cut.low_res[None] for object_ in objects]
    return {
        "mask_logits": np.stack(logits) if logits else np.zeros((0, height, width), np.float32),
        "low_res_logits": np.stack(low_res) if low_res else np.zeros((0, 1, 1, 1), np.float32),
        "seg_probabilities": np.array([object_.probability for object_ in objects], np.float32),
        "predicted_ious": np.array([object_.cut.iou for object_ in objects], np.float32),
    }


def _ignore(event: object) -> None:
    del event


def _never() -> bool:
    return False
