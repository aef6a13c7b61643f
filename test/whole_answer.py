"""For tests: a LISA answer with every mask at the image's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, Timings


@dataclass(frozen=True, eq=False)
class WholeAnswer:
    """S masks, image size (H, W): masks (S, H, W) bool before specks are removed, scores (S,) after."""

    answer: str
    answer_ids: list[int]
    masks: NDArray[np.bool_]
    mask_logits: NDArray[np.float32]
    low_res_logits: NDArray[np.float32]
    seg_probabilities: NDArray[np.float32]
    scores: NDArray[np.float32]
    timings: Timings

    @property
    def found(self) -> bool:
        return bool(self.masks.any())


def segment(segmenter: Any, encoded: Any, command: str, *, draft: bool = True, **options: Any) -> WholeAnswer:
    """Ask a Segmenter with details. options: fields of Ask, on_event, should_stop."""
    on_event, should_stop = options.pop("on_event", None), options.pop("should_stop", None)
    answer = segmenter.ask(encoded, Ask(command, **options), on_event, should_stop, details=True, draft=draft)
    assert answer.details is not None
    scores = np.array([region.score for region in answer.regions], np.float32)
    masks = answer.details["mask_logits"] > 0
    return WholeAnswer(answer.text, masks=masks, scores=scores, timings=answer.timings, **answer.details)
