"""READ's similarity points: the image tokens most and least like a mask token become point prompts for SAM.

Source: Qian et al., "Reasoning to Attend: Try to Understand How <SEG> Token Works", CVPR 2025, with the steps of its
reference implementation. Two of them look odd and are the reference's: the side of 336 of the fine map for every tower,
and the truncated size of the padded map, which crops a ring for some image sizes.
"""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from lisa_ros.lisa.family import PointSettings
from lisa_ros.lisa.preprocess import Size

FINE_SIDE = 336
WINDOW = 8
"""Pixels on each side of a point that move it; farther ones weigh less than exp(-64)."""

POSITIVE, NEGATIVE, NOT_A_POINT = 1, 0, -1


def similarity_points(similarity: Tensor, size: Size, settings: PointSettings) -> tuple[Tensor, Tensor]:
    """Choose the points of one mask.

    Args:
        similarity: (K,) float32, similarity of each image token to the mask token; K is a square number.
        size: (height, width) of the image, pixels.
        settings: Number of points, thresholds, size of a cell.

    Returns:
        points: (n, 2) float32, (x, y) in pixels of the image.
        labels: (n,) int64: 1 positive, 0 negative, -1 not a point. n is ``num_points``, or the number of cells if that
            is less. With a constant similarity all labels are -1.
    """
    side = isqrt(len(similarity))
    grid = similarity.float().view(1, 1, side, side)
    cells = max(side // settings.down_sample, 1)
    coarse = _normalized(F.interpolate(grid, (cells, cells), mode="bilinear", align_corners=False))
    padded = _padded(coarse, size, -1.0)[0, 0]  # (rows, columns) of cells
    order, labels = _chosen(padded.flatten(), settings)
    rows, columns = padded.shape
    x = ((order % columns + 0.5) * size[1] / columns).clamp(max=size[1] - 1).trunc()
    y = ((order // columns + 0.5) * size[0] / rows).clamp(max=size[0] - 1).trunc()
    points = torch.stack([x, y], dim=-1).to(torch.float32)
    if bool(grid.max() == grid.min()):
        return points, torch.full_like(labels, NOT_A_POINT)
    fine = F.interpolate(_normalized(grid), (FINE_SIDE, FINE_SIDE), mode="bilinear", align_corners=False)
    return _settled(points, _padded(fine, size, 0.0), size), labels


def _normalized(values: Tensor) -> Tensor:
    """To [0, 1]; a constant becomes 0."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(values.dtype).tiny)


def _padded(grid: Tensor, size: Size, value: float) -> Tensor:
    """A square map (1, 1, t, t) of CLIP's centre crop, padded to the whole image."""
    side = grid.shape[-1]
    scale = side / min(size)
    height, width = int(size[0] * scale), int(size[1] * scale)
    most = -((side - 1) // 2)  # of a crop: at least one cell stays
    top, left = max((height - side) // 2, most), max((width - side) // 2, most)
    return F.pad(grid, (left, left, top, top), value=value)


def _chosen(values: Tensor, settings: PointSettings) -> tuple[Tensor, Tensor]:
    """Indices and labels of the cells: the most similar ones, then the least similar ones, then the rest."""
    index = torch.arange(len(values), device=values.device)
    positive = index[values >= settings.t_pos]
    negative = index[(values >= 0) & (values <= settings.t_neg)]
    rest = index[(values > settings.t_neg) & (values < settings.t_pos)]
    groups = [
        (positive[values[positive].argsort(descending=True, stable=True)], POSITIVE),
        (negative[values[negative].argsort(stable=True)], NEGATIVE),
        (rest, NOT_A_POINT),
    ]
    order = torch.cat([group for group, _ in groups])[: settings.num_points]
    labels = torch.cat([torch.full_like(group, label) for group, label in groups])[: settings.num_points]
    return order, labels


def _settled(points: Tensor, fine: Tensor, size: Size) -> Tensor:
    """Move each point (n, 2) to the mean position around it, weighted by nearness and by the fine map (1, 1, h, w)."""
    offsets = torch.arange(-WINDOW, WINDOW + 1, device=points.device, dtype=torch.float32)
    around = torch.stack(torch.meshgrid(offsets, offsets, indexing="xy"), dim=-1).view(1, -1, 2)
    pixels = points[:, None] + around  # (n, 289, 2)
    extent = torch.tensor([size[1], size[0]], device=points.device, dtype=torch.float32)
    inside = ((pixels >= 0) & (pixels < extent)).all(dim=-1)
    # grid_sample with these settings reads what interpolate would give at these pixels.
    where = 2 * (pixels + 0.5) / extent - 1
    values = F.grid_sample(fine, where[None], mode="bilinear", padding_mode="border", align_corners=False)[0, 0]
    weights = torch.exp(values - around.square().sum(dim=-1)) * inside  # (n, 289)
    return (pixels * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
