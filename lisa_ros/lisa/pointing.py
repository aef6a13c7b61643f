"""Points and a box that a person gave with a command, for the mask decoder.

Two kinds of models use them differently (``Spec.point_prompts``):

- ``tokens``: SAM's prompt encoder makes tokens of them, which join the ``[SEG]`` embedding as sparse prompts. READ was
  trained with such points; LISA's decoder is SAM's, which was trained with points alone.
- ``place``: the model was never trained with them. Its ``[SEG]`` embedding is the encoding of a class plus the
  encoding of the middle of the mask, so the second is replaced by that of the given place. Then the parts of the mask
  that a negative point or the box excludes are removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import Ask
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.sam import box_tokens, point_tokens
from lisa_ros.lisa.preprocess import Size

OUTSIDE = -20.0
"""Logit of a cell that is excluded."""


@dataclass(frozen=True)
class Pointing:
    """Places in pixels of the frame.

    Args:
        points: (x, y) of each point.
        labels: One for each point: 1 on the thing, 0 not on it.
        box: (left, top, right, bottom) around the thing; None: no box.
    """

    points: tuple[tuple[float, float], ...] = ()
    labels: tuple[int, ...] = ()
    box: tuple[float, float, float, float] | None = None

    def with_label(self, label: int) -> list[tuple[float, float]]:
        """The points with this label."""
        return [point for point, one in zip(self.points, self.labels, strict=True) if one == label]

    @property
    def place(self) -> tuple[float, float] | None:
        """Where the thing is, about: the mean of the points on it, else the middle of the box; None without both."""
        if on_thing := self.with_label(1):
            x, y = np.mean(on_thing, axis=0)
            return float(x), float(y)
        if self.box is None:
            return None
        left, top, right, bottom = self.box
        return (left + right) / 2, (top + bottom) / 2


def pointing_of(ask: Ask) -> Pointing | None:
    """Points and box of a checked command; None where it has neither."""
    if not ask.points and ask.box is None:
        return None
    labels = tuple(ask.point_labels) or (1,) * len(ask.points)
    points = tuple((float(x), float(y)) for x, y in ask.points)
    if ask.box is None:
        return Pointing(points, labels)
    x, y, width, height = ask.box
    return Pointing(points, labels, (x, y, x + width, y + height))


def prompt_tokens(lisa: Lisa, pointing: Pointing, scale: tuple[float, float]) -> Tensor:
    """Sparse prompt tokens (1, n, C) in the order of SAM's prompt encoder: points, padding or the box's corners.

    Args:
        lisa: The model.
        pointing: In pixels of the frame.
        scale: Pixels of the encoder's input for one of the frame, along x and y.
    """
    factor = torch.tensor(scale, dtype=torch.float32)
    parts = []
    if pointing.points:
        points = (torch.tensor(pointing.points, dtype=torch.float32) * factor).to(lisa.device)[None]  # (1, n, 2)
        tokens = point_tokens(lisa.sam, points, torch.tensor([pointing.labels], device=lisa.device))
        parts.append(tokens if pointing.box is None else tokens[:, :-1])  # SAM pads points only where there is no box
    if pointing.box is not None:
        box = torch.tensor(pointing.box, dtype=torch.float32).reshape(2, 2) * factor
        parts.append(box_tokens(lisa.sam, box.reshape(1, 4).to(lisa.device)))
    return torch.cat(parts, dim=1)


def place_encoding(lisa: Lisa, place: tuple[float, float], size: Size) -> Tensor:
    """SAM's encoding (C,) float32 of a pixel of the frame, relative to the padded square."""
    encoding = lisa.sam.shared_image_embedding
    relative = (torch.tensor([place], device=lisa.device) + 0.5) / max(size)
    encoded: Tensor = encoding(relative.to(encoding.positional_embedding.dtype)).float()[0]
    return encoded


def middle_of(logits: NDArray[np.float32], size: Size) -> tuple[float, float] | None:
    """Mean pixel (x, y) of the frame where mask logits (4h, 4w) of the padded square are above 0; None for none."""
    rows, columns = np.nonzero(logits > 0)
    if not len(rows):
        return None
    cell = max(size) / logits.shape[0]
    return float((columns.mean() + 0.5) * cell - 0.5), float((rows.mean() + 0.5) * cell - 0.5)


def kept(logits: NDArray[np.float32], pointing: Pointing, size: Size) -> NDArray[np.float32]:
    """Mask logits (4h, 4w) of the padded square without what the places exclude.

    Cells outside of the box are removed. Where connected parts have a positive point, the others are removed; otherwise
    those with a negative point are.
    """
    cell = max(size) / logits.shape[0]
    logits = logits.copy()
    if pointing.box is not None:
        left, top, right, bottom = (value / cell for value in pointing.box)
        centres = np.arange(logits.shape[0]) + 0.5
        rows, columns = (centres >= top) & (centres <= bottom), (centres >= left) & (centres <= right)
        logits[~(rows[:, None] & columns[None, :])] = OUTSIDE
    _, parts = cv2.connectedComponents((logits > 0).astype(np.uint8), connectivity=8)

    def parts_at(label: int) -> list[int]:
        cells = [(int((y + 0.5) / cell), int((x + 0.5) / cell)) for x, y in pointing.with_label(label)]
        inside = [(row, column) for row, column in cells if min(row, column) >= 0 and max(row, column) < len(parts)]
        return [part for row, column in inside if (part := int(parts[row, column]))]

    wanted = parts_at(1)
    excluded = ~np.isin(parts, wanted) if wanted else np.isin(parts, parts_at(0))
    logits[(parts > 0) & excluded] = OUTSIDE
    return logits
