"""Whether scores can be trusted: the score of each mask against what it marks, and the calibration that corrects it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.truth import IGNORED
from lisa_ros.engine.api import Region
from lisa_ros.engine.calibration import logit

BINS = 10
HALF = 0.5
FLATTEST = 0.01
"""Smallest slope of the calibration (largest temperature 100): a higher score never means a lower probability."""


@dataclass(frozen=True)
class ScoredMask:
    """One mask of an answer.

    Args:
        score: Of the engine, in [0, 1].
        iou: With the true mask, or with one of several true objects if that is more.
        right: At least half of its pixels lie on the target: it marks the right object, however well.
    """

    score: float
    iou: float
    right: bool


def score_mask(region: Region, truth: NDArray[np.uint8], objects: Sequence[NDArray[np.bool_]] = ()) -> ScoredMask:
    """Compare one mask with the truth.

    Args:
        region: Of an answer, with at least one pixel.
        truth: (H, W) with 0, 1 and 255 (ignored): all targets.
        objects: Masks (H, W) of all things in the picture, the targets among them; may be empty.
    """
    mask = region.mask
    window = slice(mask.y, mask.y + mask.height), slice(mask.x, mask.x + mask.width)
    counts = (mask.pixels > 0) & (truth[window] != IGNORED)
    area = int(np.count_nonzero(counts))
    targets = [truth == 1]
    # Of several targets, a mask may mean one.
    targets += [each for each in objects if np.count_nonzero(each & targets[0]) >= HALF * np.count_nonzero(each)]
    ious = []
    for target in targets:
        inside = int(np.count_nonzero(counts & target[window]))
        union = area + int(np.count_nonzero(target & (truth != IGNORED))) - inside
        ious.append(inside / union if union else 0.0)
    on_target = int(np.count_nonzero(counts & targets[0][window]))
    return ScoredMask(region.score, max(ious), bool(area and on_target >= HALF * area))


def reliability(masks: Sequence[ScoredMask]) -> dict[str, Any]:
    """Scores in ten bins of equal width, and how far they are from what happens.

    ``bins`` has, for each bin that is not empty, its limits and the means of the masks in it. ``error_right`` and
    ``error_iou`` are the expected calibration error (Naeini et al., 2015): the mean, over all masks, of how far the
    mean score of the mask's bin is from the share of right objects, and from the mean IoU.
    """
    groups: list[list[ScoredMask]] = [[] for _ in range(BINS)]
    for mask in masks:
        groups[min(int(mask.score * BINS), BINS - 1)].append(mask)
    bins = [
        {
            "from": at / BINS,
            "to": (at + 1) / BINS,
            "n": len(group),
            "score": round(_mean([mask.score for mask in group]), 4),
            "right": round(_mean([mask.right for mask in group]), 4),
            "iou": round(_mean([mask.iou for mask in group]), 4),
        }
        for at, group in enumerate(groups)
        if group
    ]
    return {
        "n": len(masks),
        "bins": bins,
        "error_right": round(_error(bins, "right"), 4) if masks else None,
        "error_iou": round(_error(bins, "iou"), 4) if masks else None,
    }


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _error(bins: Sequence[dict[str, Any]], name: str) -> float:
    return sum(one["n"] * abs(one["score"] - one[name]) for one in bins) / sum(one["n"] for one in bins)


def reliability_table(report: dict[str, Any]) -> list[str]:
    """Lines for the terminal."""
    if not report["n"]:
        return []
    lines = [f"{'score':14}{'masks':>8}{'mean score':>12}{'right object':>14}{'mean IoU':>10}"]
    for one in report["bins"]:
        limits = f"{one['from']:.1f} to {one['to']:.1f}"
        lines.append(f"{limits:14}{one['n']:8d}{one['score']:12.2f}{one['right']:14.1%}{one['iou']:10.2f}")
    lines.append(
        f"calibration error of the score: {report['error_right']:.3f} for the right object, "
        f"{report['error_iou']:.3f} for the IoU"
    )
    return lines


def fit(masks: Sequence[ScoredMask]) -> tuple[float, float]:
    """Temperature and bias that make scores the probability of the right object.

    Platt's method: logistic regression of ``right`` on the logit of the score, with his targets, which keep a few masks
    that are all right (or all wrong) from giving certainty. Newton's method with halved steps.

    Returns:
        temperature, bias: of :class:`lisa_ros.engine.calibration.Calibration`.
    """
    x = np.array([logit(mask.score) for mask in masks])
    right = np.array([mask.right for mask in masks])
    ones = int(right.sum())
    targets = np.where(right, (ones + 1) / (ones + 2), 1 / (len(masks) - ones + 2))
    slope, bias = _logistic(np.stack([x, np.ones_like(x)], 1), targets, np.array([1.0, 0.0]))
    if slope < FLATTEST:
        (bias,) = _logistic(np.ones((len(x), 1)), targets, np.zeros(1), FLATTEST * x)
        slope = FLATTEST
    return float(1.0 / slope), float(bias)


def _logistic(
    features: NDArray[np.float64],
    targets: NDArray[np.float64],
    weights: NDArray[np.float64],
    offset: NDArray[np.float64] | float = 0.0,
) -> NDArray[np.float64]:
    """Weights (D,) of least cross-entropy. features: (N, D). targets: (N,) in (0, 1). offset: added to the logits."""

    def loss(weights: NDArray[np.float64]) -> float:
        z = features @ weights + offset
        return float(np.sum(np.logaddexp(0.0, z) - targets * z))

    for _ in range(100):
        p = 1.0 / (1.0 + np.exp(-(features @ weights + offset)))
        gradient = features.T @ (p - targets)
        curvature = (features * (p * (1 - p))[:, None]).T @ features + 1e-9 * np.eye(features.shape[1])
        step = np.linalg.solve(curvature, gradient)
        scale = 1.0
        while loss(weights - scale * step) > loss(weights) and scale > 1e-8:
            scale /= 2
        weights = weights - scale * step
        if math.isclose(float(np.abs(scale * step).max()), 0.0, abs_tol=1e-9):
            break
    return weights
