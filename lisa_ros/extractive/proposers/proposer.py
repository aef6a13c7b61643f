"""The interface of a proposer, the options that all proposers have, and the cache: once a frame.

A proposer is any object with ``propose``; it needs no base class. A factory creates it:
``factory(segmenter=..., options={...})``. docs/extend.md has an example in one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Proposals
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.packed_crops import PackedCrops, packed
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter


class Proposer(Protocol):
    """Proposes masks of a frame, before any command is known."""

    def propose(self, image: EncodedImage) -> Proposals:
        """Candidate masks.

        Args:
            image: Encoded frame; ``image.rgb`` has its pixels, uint8 (H, W, 3).

        Returns:
            Masks of the frame's size, as planes or crops; small ones too. Scores, phrases and embeddings if there are
            any. In any order: :func:`proposals_of` arranges them.
        """


class ProposerFactory(Protocol):
    """Creates a proposer; called with keyword arguments only. It raises ConfigError for options it cannot use."""

    def __call__(self, *, segmenter: Segmenter, options: dict[str, Any]) -> Proposer: ...


@dataclass(frozen=True)
class Arrangement:
    """Order and number of proposals.

    Args:
        order: A name of ``ORDERS``.
        limit: Most proposals, the first ones of the order; 0: all.
    """

    order: str = "area"
    limit: int = 0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ConfigError(f"the order of proposals is {self.order!r}; choose one of {', '.join(ORDERS)}")
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 0:
            raise ConfigError(f"the limit of proposals is {self.limit!r}; give a whole number, 0 for all")

    def of(self, proposals: Proposals) -> Proposals:
        """``proposals`` in this order, without empty masks, packed. Where there are no masks, they stay as they are."""
        crops = packed(proposals)
        if not crops:
            return proposals
        scores = proposals.scores if proposals.scores is not None else np.array([crop.score for crop in crops])
        ranks = ORDERS[self.order](crops, np.asarray(scores, np.float64))
        chosen = [int(index) for index in np.argsort(ranks, kind="stable") if crops.areas[index]]
        chosen = chosen[: self.limit or None]
        embeddings, phrases = proposals.embeddings, tuple(proposals.phrases)
        return Proposals(
            crops=crops.taken(chosen),
            embeddings=None if embeddings is None else embeddings[chosen],
            scores=np.asarray(scores, np.float32)[chosen],
            phrases=tuple(phrases[index] for index in chosen) if phrases else (),
        )


def _rows_and_columns(crops: PackedCrops, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """From top to bottom, then from left to right, by the masks' middles."""
    middles = np.array([crop.centroid[::-1] for crop in crops])
    return np.lexsort(middles.T[::-1]).argsort().astype(np.float64)


ORDERS: Mapping[str, Callable[[PackedCrops, NDArray[np.float64]], NDArray[Any]]] = {
    "area": lambda crops, scores: -crops.areas,  # the largest first, as LLM-Seg
    "score": lambda crops, scores: -scores,
    "position": _rows_and_columns,
    "proposer": lambda crops, scores: np.arange(len(crops)),
}
"""Name -> a rank for each mask; the lowest comes first."""


def proposals_of(image: EncodedImage, proposer: Proposer, arrangement: Arrangement) -> Proposals:
    """The proposals of a frame, made at the first call and kept with it for all further commands."""
    if image.proposals is None:
        image.proposals = arrangement.of(proposer.propose(image))
    return image.proposals
