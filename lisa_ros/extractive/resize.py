"""Mask logits at low resolution to masks of the frame's size, and back to weights of the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import MaskCrop, crop_mask
from lisa_ros.lisa.preprocess import Size, resized_size
from lisa_ros.perception.masks import mask_score
from lisa_ros.perception.specks import drop_specks

Matrix = NDArray[np.float32]


def crop_logits(low_res: Matrix, size: Size, input_size: int, smallest_part: float = 0.0) -> MaskCrop:
    """Resize one mask's logits to the frame as ``upsample_logits`` does, but only where the mask can be.

    Args:
        low_res: (h, h) float32, of the padded square.
        size: (height, width) of the frame, pixels.
        input_size: Side of the square, pixels.
        smallest_part: As in :func:`lisa_ros.perception.specks.drop_specks`; 0: every part stays.

    Returns:
        The crop. Its score is the mean foreground probability inside the mask, 0 if it is empty.
    """
    rows, columns = (np.flatnonzero((low_res > 0).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return crop_mask(np.zeros(size, np.bool_))
    down, across = _matrices(size, input_size, low_res.shape[0])
    top, down_part, low_rows = _part(down, rows)
    left, across_part, low_columns = _part(across, columns)
    logits = (down_part @ low_res[low_rows, low_columns] @ across_part.T).astype(np.float32, copy=False)
    if smallest_part:
        drop_specks(logits, smallest_part)
    crop = crop_mask(logits > 0, score=mask_score(1.0, logits))
    if not crop.area:
        return crop
    centroid = (crop.centroid[0] + left, crop.centroid[1] + top)
    return replace(crop, x=crop.x + left, y=crop.y + top, centroid=centroid)


def _part(matrix: Matrix, lows: NDArray[np.intp]) -> tuple[int, Matrix, slice]:
    """What of ``matrix`` concerns the low-resolution lines from the first to the last of ``lows``: the first line of
    the frame, the part of the matrix, and the lines that it reads."""
    touched = np.flatnonzero(matrix[:, lows[0] : lows[-1] + 1].any(axis=1))
    begin, end = (int(touched[0]), int(touched[-1]) + 1) if touched.size else (0, 1)  # a mask in the padding alone
    read = np.flatnonzero(matrix[begin:end].any(axis=0))
    lines = slice(int(read[0]), int(read[-1]) + 1)
    return begin, matrix[begin:end, lines], lines


@lru_cache(maxsize=8)
def _matrices(size: Size, input_size: int, side: int) -> tuple[Matrix, Matrix]:
    """(H, side) and (W, side): SAM's two bilinear steps along each axis as one matrix."""
    identity = torch.eye(side)[None]
    square = F.interpolate(identity, input_size, mode="linear", align_corners=False)
    down, across = (
        F.interpolate(square[..., :unpadded], length, mode="linear", align_corners=False)[0].T.contiguous().numpy()
        for unpadded, length in zip(resized_size(size, input_size), size, strict=True)
    )
    return down, across


def square_weights(crops: Sequence[MaskCrop], size: Size, side: int) -> Tensor:
    """How much of each cell of a grid over the padded square every mask covers, as LLM-Seg resizes its proposals.

    Args:
        crops: N masks of one frame.
        size: (height, width) of the frame, pixels. It is padded on the right and below to a square.
        side: Cells of the grid along one side.

    Returns:
        (N, side, side) float32 in [0, 1]: bilinear with antialiasing.
    """
    longest = max(size)
    shrink = _shrinking(longest, side)
    weights = torch.zeros(len(crops), side, side)
    for number, crop in enumerate(crops):
        if crop.area:
            covered = (crop.pixels > 0).astype(np.float32)
            down, across = shrink[:, crop.y : crop.y + crop.height], shrink[:, crop.x : crop.x + crop.width]
            weights[number] = torch.from_numpy(down @ covered @ across.T)
    return weights


@lru_cache(maxsize=8)
def _shrinking(longest: int, side: int) -> Matrix:
    """(side, longest): the antialiased bilinear step along one axis as a matrix."""
    lines = torch.eye(longest)[None, None]
    resized = F.interpolate(lines, (side, longest), mode="bilinear", align_corners=False, antialias=True)
    return resized[0, 0].numpy()
