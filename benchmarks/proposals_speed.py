"""How long proposals take beside an encoding, and what they find: the demo model's things on rendered scenes.

    lisa scenes --out scenes/test --count 60 --seed 778 --split test --no-depth
    OMP_NUM_THREADS=1 python benchmarks/proposals_speed.py scenes/test

Both are CPU time of one process, picture by picture in turn, so that other processes slow both alike.
"""

from __future__ import annotations

import argparse
import time
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.engine.api import MaskCrop
from lisa_ros.extractive.proposers.drawn import Drawn
from lisa_ros.extractive.proposers.proposer import Arrangement
from lisa_ros.lisa.segmenter import Segmenter
from lisa_ros.perception.packed_crops import packed
from lisa_small import model_folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, help="folder of `lisa scenes`")
    parser.add_argument("--limit", type=int, default=60, help="pictures (60)")
    arguments = parser.parse_args()
    segmenter = Segmenter.from_checkpoint(model_folder(), device="cpu", precision="fp32")
    begun = time.process_time()
    drawn = Drawn(segmenter)
    print(f"prompts of {len(drawn.classes)} classes asked for once: {time.process_time() - begun:.1f} s")
    encodings, proposings, counts, best, shares, stored = [], [], [], [], [], []
    for record in islice(read_records(arguments.scenes), arguments.limit):
        rgb, ids = read_pair(arguments.scenes, record)
        begun = time.process_time()
        image = segmenter.encode(rgb)
        encoded = time.process_time()
        proposals = Arrangement().of(drawn.propose(image))
        encodings.append(encoded - begun)
        proposings.append(time.process_time() - encoded)
        crops = list(proposals.crops)
        counts.append(len(crops))
        stored.append(packed(proposals).nbytes)
        truths = [ids == thing["id"] for thing in record["objects"]]
        best += [max((iou(crop, truth) for crop in crops), default=0.0) for truth in truths if truth.any()]
        shares += [float(truth.mean()) for truth in truths if truth.any()]
    ious, sizes = np.array(best), np.digitize(shares, (0.01, 0.04))
    print(f"proposals a picture: {np.mean(counts):.1f}, at most {max(counts)}; {np.mean(stored) / 1e3:.1f} kB")
    print(f"recall at 0.5 and 0.75: {np.mean(ious > 0.5):.3f}, {np.mean(ious > 0.75):.3f} of {len(ious)} objects")
    of_size = ", ".join(f"{ious[sizes == size].mean():.3f}" for size in range(3))
    print(f"mean best IoU: {ious.mean():.3f} (small, medium, large {of_size})")
    ratios = np.array(proposings) / np.array(encodings)
    whole = sum(proposings) / sum(encodings)
    print(
        f"proposals / encoding: {whole:.2f} in all, median {np.median(ratios):.2f}, 90 % {np.quantile(ratios, 0.9):.2f}"
    )


def iou(crop: MaskCrop, truth: NDArray[np.bool_]) -> float:
    window = truth[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width]
    inside = int(np.count_nonzero(window & (crop.pixels > 0)))
    return inside / (int(np.count_nonzero(truth)) + crop.area - inside)


if __name__ == "__main__":
    main()
