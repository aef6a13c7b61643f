"""Masks stored as bits of their tight boxes: an eighth of the memory of crops, and far less than whole planes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import MaskCrop, Proposals, crop_mask


@dataclass(frozen=True, eq=False)
class _Packed:
    """A crop without its pixels, and their bits row by row."""

    crop: MaskCrop
    bits: NDArray[np.uint8]


class PackedCrops(Sequence[MaskCrop]):
    """A sequence of :class:`MaskCrop` that keeps one bit for each pixel. An element is unpacked whenever it is read."""

    def __init__(self, crops: Iterable[MaskCrop] = ()):
        self._packed = [_pack(crop) for crop in crops]

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> MaskCrop: ...
    @overload
    def __getitem__(self, index: slice) -> PackedCrops: ...
    def __getitem__(self, index: int | slice) -> MaskCrop | PackedCrops:
        if isinstance(index, slice):
            return self.taken(range(len(self))[index])
        return _unpack(self._packed[index])

    def taken(self, indices: Iterable[int]) -> PackedCrops:
        """Those with these indices, in their order, without unpacking."""
        chosen = PackedCrops()
        chosen._packed = [self._packed[index] for index in indices]
        return chosen

    @property
    def areas(self) -> NDArray[np.int64]:
        """(N,) pixels of each mask."""
        return np.array([packed.crop.area for packed in self._packed], np.int64)

    @property
    def nbytes(self) -> int:
        """Bytes of all bits."""
        return sum(packed.bits.nbytes for packed in self._packed)


def packed(proposals: Proposals) -> PackedCrops:
    """The masks of ``proposals``, from its planes or its crops; empty where it has embeddings only."""
    if proposals.masks is not None:
        return PackedCrops(crop_mask(mask) for mask in proposals.masks)
    return proposals.crops if isinstance(proposals.crops, PackedCrops) else PackedCrops(proposals.crops)


def _pack(crop: MaskCrop) -> _Packed:
    return _Packed(replace(crop, pixels=np.zeros((0, 0), np.uint8)), np.packbits(crop.pixels > 0))


def _unpack(packed: _Packed) -> MaskCrop:
    height, width = packed.crop.height, packed.crop.width
    pixels = np.unpackbits(packed.bits, count=height * width).reshape(height, width) * np.uint8(255)
    return replace(packed.crop, pixels=pixels)
