"""What a locator finds, and what a locator and a cutter are. numpy only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, ShouldStop

Box = tuple[float, float, float, float]
"""x1, y1, x2, y2 in pixels of the camera image: left, top, right, bottom edge."""

Point = tuple[float, float]
"""x, y in pixels of the camera image."""

Size = tuple[int, int]
"""(height, width), pixels."""


@dataclass(frozen=True, eq=False)
class Find:
    """One object that a locator has found.

    Args:
        label: Its name; may be empty.
        box: Around the object; None if there are only points or a mask.
        points: On the object, or beside it (``point_labels``).
        point_labels: One for each point: 1 on the object, 0 not on it.
        probability: That the find is right, in [0, 1]; 1 if the locator does not say.
        logits: (H, W) float32, of the camera image's size, from a locator that also cuts; the mask is where they are
            above 0. Else None.
    """

    label: str
    box: Box | None = None
    points: tuple[Point, ...] = ()
    point_labels: tuple[int, ...] = ()
    probability: float = 1.0
    logits: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Located:
    """The end of a locator's answer.

    Args:
        raw: The model's text as it goes back into a conversation.
        words: What the model says beside the finds: the reason, or why nothing is there. May be empty.
        question: The text of the turn as the model read it.
        dropped: Objects of the answer that could not be used.
    """

    raw: str = ""
    words: str = ""
    question: str = ""
    dropped: int = 0


OnFind = Callable[[Find], None]
OnWords = Callable[[str], None]


class Locator(Protocol):
    """Finds the objects that a command describes. Calls are made one at a time."""

    @property
    def name(self) -> str:
        """Name of the model."""

    @property
    def multimask(self) -> bool:
        """Whether the locator was trained with the best of the cutter's three masks."""

    def view(self, rgb: NDArray[np.uint8]) -> Any:
        """Process a frame once, for any number of commands. rgb: uint8 (H, W, 3)."""

    def locate(self, view: Any, ask: Ask, on_find: OnFind, on_words: OnWords, should_stop: ShouldStop) -> Located:
        """Find the objects of a command.

        Args:
            view: Result of :meth:`view`.
            ask: The command, its earlier turns and its limits.
            on_find: Called with each find as soon as it is known.
            on_words: Called with the words so far, as they grow; with none as soon as a language model writes.
            should_stop: If it returns True, ``Cancelled`` is raised and the model stops working.

        Returns:
            What the answer holds beside the finds.

        Raises:
            CommandError: The command cannot be used.
            Cancelled: ``should_stop`` returned True.
        """

    def confirm(
        self, rgb: NDArray[np.uint8], find: Find, ask: Ask, mask: NDArray[np.bool_], should_stop: ShouldStop
    ) -> float | None:
        """Probability that a mask shows what the command describes; None if the locator cannot say.

        Args:
            rgb: uint8 (H, W, 3), the frame.
            find: The find that was cut.
            ask: The command.
            mask: (H, W) bool.
            should_stop: As in :meth:`locate`.
        """


@dataclass(frozen=True, eq=False)
class Cut:
    """One mask.

    Args:
        logits: (H, W) float32, of the camera image's size; the mask is where they are above 0.
        low_res: (h, w) float32, as the decoder gives it.
        iou: The IoU that the cutter predicts, in [0, 1] where it is trained.
        object_probability: That there is an object at the prompt, in [0, 1]; 1 if the cutter does not say.
    """

    logits: NDArray[np.float32]
    low_res: NDArray[np.float32]
    iou: float = 1.0
    object_probability: float = 1.0


class Cutter(Protocol):
    """Cuts masks out of a frame. Calls are made one at a time."""

    @property
    def name(self) -> str:
        """Name of the model."""

    def embed(self, rgb: NDArray[np.uint8]) -> Any:
        """Process a frame once, for any number of cuts. rgb: uint8 (H, W, 3)."""

    def cut(self, embedding: Any, finds: Sequence[Find], multimask: bool = False) -> list[Cut]:
        """Cut one mask for each find.

        Args:
            embedding: Result of :meth:`embed`.
            finds: All have a box, or all have the same number of points.
            multimask: Take, of three masks, the one with the best predicted IoU; else the single mask.
        """
