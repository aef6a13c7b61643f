"""Masks from a labels image, in which the value of a pixel is the number of its mask and 0 is background."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop, Proposals, crop_mask
from lisa_ros.perception.packed_crops import PackedCrops


def crops_of(labels: NDArray[np.integer]) -> Iterator[MaskCrop]:
    """A crop for each value above 0, in the order of the values, with the value as its label and the score 1.

    Args:
        labels: (H, W), whole numbers.
    """
    flat = labels.ravel()
    there = np.flatnonzero(flat > 0)
    if not there.size:
        return
    order = there[np.argsort(flat[there], kind="stable")]  # one sort, however many masks there are
    values, begins = np.unique(flat[order], return_index=True)
    for value, pixels in zip(values, np.split(order, begins[1:]), strict=True):
        rows, columns = np.divmod(pixels, labels.shape[1])
        top, left = int(rows.min()), int(columns.min())
        window = np.zeros((int(rows.max()) - top + 1, int(columns.max()) - left + 1), np.bool_)
        window[rows - top, columns - left] = True
        crop = crop_mask(window, int(value), 1.0)
        centroid = (crop.centroid[0] + left, crop.centroid[1] + top)
        yield replace(crop, x=left, y=top, centroid=centroid)


@dataclass(frozen=True)
class PackedLabels:
    """A labels image in few bytes, to be sent to another process.

    Args:
        size: (height, width), pixels.
        kind: Name of the number format.
        data: The pixels, compressed.
        names: Of masks, by label.
        scores: In [0, 1], by label; the others have 1.
    """

    size: tuple[int, int]
    kind: str
    data: bytes
    names: Mapping[int, str] = field(default_factory=dict)
    scores: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, labels: NDArray[np.integer], names: Mapping[int, str] = {}, scores: Mapping[int, float] = {}
    ) -> PackedLabels:
        """Pack (H, W) whole numbers."""
        data = zlib.compress(np.ascontiguousarray(labels).tobytes(), 1)
        return cls((labels.shape[0], labels.shape[1]), labels.dtype.str, data, names, scores)

    def proposals(self) -> Proposals:
        """A proposal for each label above 0, in the order of the labels."""
        labels = np.frombuffer(zlib.decompress(self.data), np.dtype(self.kind)).reshape(self.size)
        crops = PackedCrops(replace(crop, score=self.scores.get(crop.label, 1.0)) for crop in crops_of(labels))
        numbers = crops.labels
        phrases = tuple(self.names.get(number, "") for number in numbers)
        scores = np.array([self.scores.get(number, 1.0) for number in numbers], np.float32)
        return Proposals(crops=crops, scores=scores, phrases=phrases if any(phrases) else ())
