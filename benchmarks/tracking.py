"""How well and how fast masks follow rendered sequences with true masks, 640x480 at 30 Hz.

    python benchmarks/tracking.py                     # every motion, scenes 0 to 2, 5 s each: some minutes of drawing
    python benchmarks/tracking.py --scenes 1 --seconds 2

IoU: mean over the frames in which at least a fifth of the target is seen. lost after: from the first frame without the
target to the first that says LOST. ms: CPU time of an update, on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sequences import ENDING, FOLLOWED, open_studio, shots

from lisa_ros.engine.api import crop_mask
from lisa_ros.perception.tracking import FlowTracker, State, Tracked

SEEN = 0.2  # share of the first frame's pixels


@dataclass(frozen=True)
class Row:
    """What one sequence gave. lost_after_s: None where the target never goes for good, NaN where LOST was not said."""

    motion: str
    scene: int
    iou: float
    worst_iou: float
    tracking: float
    lost_after_s: float | None
    mean_ms: float
    p95_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=3, help="scenes for each motion (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each followed sequence (default %(default)s)")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    studio = open_studio()
    rows = []
    print(f"{'motion':20}{'scene':>6}{'IoU':>7}{'worst':>7}{'tracking':>10}{'lost after s':>14}{'ms':>7}{'p95 ms':>8}")
    for name, motion in {**FOLLOWED, **ENDING}.items():
        for scene in range(args.scenes):
            row = measure(studio, name, motion, scene, args.seconds if name in FOLLOWED else 3.0)
            lost = "" if row.lost_after_s is None else f"{row.lost_after_s:.2f}"
            print(
                f"{name:20}{scene:6}{row.iou:7.3f}{row.worst_iou:7.2f}{row.tracking:10.2f}{lost:>14}"
                f"{row.mean_ms:7.1f}{row.p95_ms:8.1f}",
                flush=True,
            )
            rows.append(row)
    followed = [row for row in rows if row.motion in FOLLOWED]
    lost = [row.lost_after_s for row in rows if row.lost_after_s is not None]
    print(
        json.dumps(
            {
                "benchmark": "tracking",
                "mean_iou": {name: mean(row.iou for row in followed if row.motion == name) for name in FOLLOWED},
                "worst_mean_iou": round(min(row.iou for row in followed), 3),
                "lost_after_s_max": round(float(np.max(lost)), 3) if lost else None,
                "mean_ms": mean(row.mean_ms for row in rows),
                "p95_ms": round(max(row.p95_ms for row in rows), 1),
                "rows": [rounded(row) for row in rows],
            }
        )
    )


def rounded(row: Row) -> dict:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(row).items()}


def mean(values) -> float:
    return round(float(np.mean(list(values))), 3)


def measure(studio, name: str, motion: Callable, scene: int, seconds: float) -> Row:
    """Follow one sequence from its first true mask."""
    tracker = FlowTracker()
    said: list[tuple[float, Tracked, NDArray[np.bool_]]] = []
    spent, area = [], 0
    for shot in shots(studio, motion, scene, seconds):
        if not area:
            tracker.start(shot.rgb, [crop_mask(shot.mask, 1, 1.0)], shot.time_s)
            area = int(shot.mask.sum())
            continue
        begun = time.process_time()
        (tracked,) = tracker.update(shot.rgb, shot.time_s)
        spent.append(1000 * (time.process_time() - begun))
        said.append((shot.time_s, tracked, shot.mask))
    overlaps = [iou(tracked, mask) for _, tracked, mask in said if mask.sum() >= SEEN * area]
    states = [tracked.state for _, tracked, _ in said]
    return Row(
        name,
        scene,
        float(np.mean(overlaps)),
        float(np.min(overlaps)),
        states.count(State.TRACKING) / len(states),
        lost_after(said),
        float(np.mean(spent)),
        float(np.quantile(spent, 0.95)),
    )


def iou(tracked: Tracked, mask: NDArray[np.bool_]) -> float:
    crop, image = tracked.crop, np.zeros_like(mask)
    image[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] = crop.pixels > 0
    return float(np.count_nonzero(image & mask) / max(np.count_nonzero(image | mask), 1))


def lost_after(said: list[tuple[float, Tracked, NDArray[np.bool_]]]) -> float | None:
    """Seconds from the last frame that shows the target to LOST; 0 where it was said before."""
    if said[-1][2].any():
        return None
    gone = max((t for t, _, mask in said if mask.any()), default=0.0)
    if not (late := [t for t, tracked, _ in said if t > gone and tracked.state is State.LOST]):
        return float("nan")
    return late[0] - gone


if __name__ == "__main__":
    main()
