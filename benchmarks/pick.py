#!/usr/bin/env python3
"""How many commands end with the right object alone in the tray, and why the others do not. No ROS.

    python benchmarks/pick.py --episodes 100 --seed 90000 --robot ur5e --json pick.json --failures failures/

Every episode is a fresh scene of the split "test", with one command about it in a phrasing that training never shows;
kinds of command take turns. Objects that the arm cannot reach are counted apart. Needs MuJoCo and OpenGL.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

import lisa_ros
from lisa_ros.errors import LisaError
from lisa_ros.perception.overlay import draw_overlay
from lisa_sim.cell import ROBOTS, Cell
from lisa_sim.episodes import OUT_OF_REACH, Report, model_masks, run_episode, true_masks
from lisa_sim.film import titled, with_point
from lisa_sim.scenario import KINDS, episodes
from lisa_small.scenes.render import Studio


def picture(report: Report, cell: Cell) -> np.ndarray:
    """What the robot saw at first, with the masks and the first point, and at the end."""
    first, last = report.glances[0], report.glances[-1]
    rgb = draw_overlay(first.frame.rgb, first.crops, 0.45)
    for tried in report.outcome.points[:1]:
        x, y, z, _ = np.linalg.inv(cell.camera_pose) @ np.append(tried.position, 1)
        camera = cell.camera
        rgb = with_point(rgb, (camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy))
    targets = ", ".join(cell.name_of(number) for number in report.episode.targets)
    story = "; ".join(report.outcome.story)
    panels = [titled(rgb, report.episode.command, f"meant: {targets}"), titled(last.frame.rgb, report.cause, story)]
    return np.concatenate(panels, axis=1)


def summary(reports: list[Report]) -> dict[str, object]:
    """Counts and shares. What is out of reach is in ``out_of_reach`` only."""
    counted = [report for report in reports if report.cause != OUT_OF_REACH]
    kinds = {}
    for kind in KINDS:
        own = [report.ok for report in counted if report.episode.kind == kind]
        kinds[kind] = {"ok": sum(own), "episodes": len(own)}
    return {
        "ok": sum(report.ok for report in counted),
        "episodes": len(counted),
        "share": sum(report.ok for report in counted) / max(len(counted), 1),
        "out_of_reach": len(reports) - len(counted),
        "causes": dict(Counter(report.cause for report in counted if not report.ok)),
        "kinds": kinds,
        "retries_that_helped": sum(report.ok and len(report.outcome.points) > 1 for report in counted),
        "mean_iou": float(np.mean([report.iou for report in reports])) if reports else 0.0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Picks by command in simulated cells.")
    parser.add_argument("--episodes", type=int, default=100, help="how many (100)")
    parser.add_argument("--seed", type=int, default=90000, help="number of the first scene (90000)")
    parser.add_argument("--robot", choices=sorted(ROBOTS), default="gantry")
    parser.add_argument("--true-masks", action="store_true", help="the simulation's own masks instead of a model's")
    parser.add_argument("--model", default="", help="model folder (default: the one in the package)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result")
    parser.add_argument("--failures", type=Path, metavar="DIR", help="write a picture of each failure")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="SHARE", help="exit code 1 below this share")
    arguments = parser.parse_args()
    if arguments.episodes < 1 or arguments.seed < 0 or not 0 <= arguments.at_least <= 1:
        parser.error("--episodes is 1 or more, --seed 0 or more, --at-least a share from 0 to 1")
    if arguments.failures is not None:
        arguments.failures.mkdir(parents=True, exist_ok=True)
    try:
        studio = Studio()
        engine = None
        if not arguments.true_masks:
            engine = lisa_ros.load_engine(arguments.model, device=arguments.device, precision=arguments.precision)
    except LisaError as error:
        print(f"pick: {error}", file=sys.stderr)
        return 1
    reports, seconds = [], []
    for episode in episodes(studio, arguments.seed, range(arguments.episodes)):
        begun = time.monotonic()
        cell = Cell(episode.layout, arguments.robot)
        masks = true_masks(episode.targets) if engine is None else model_masks(engine)
        report = run_episode(episode, cell, masks)
        seconds.append(time.monotonic() - begun)
        reports.append(report)
        if not report.ok:
            print(f"{episode.number:4d} {episode.kind:9s}{report.cause:16s}{episode.command}", flush=True)
            if arguments.failures is not None:
                name = f"{episode.number:04d}_{report.cause.replace(' ', '_')}.png"
                Image.fromarray(picture(report, cell)).save(arguments.failures / name)
        cell.close()
    result = {
        "robot": arguments.robot,
        "masks": "true" if arguments.true_masks else "model",
        "seed": arguments.seed,
        **summary(reports),
        "median_episode_s": round(median(seconds), 2) if seconds else 0.0,
    }
    for name, value in result.items():
        print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    return int(float(result["share"]) < arguments.at_least)


if __name__ == "__main__":
    sys.exit(main())
