"""LISA, GSVA and CoReS on the same commands about rendered scenes: several targets, absent ones, small things.

    lisa scenes --out data/scenes/test --count 440 --seed 42 --split test --no-depth
    python benchmarks/relatives.py data/scenes/test lisa=lisa_small/weights gsva=models/small-gsva --json scores.json

Every target is a name. A model that answers about several targets is asked for all of a command at once; another is
asked for each alone. Scores are strict: a rejected or unanswered target is an empty mask.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lisa_ros import load_engine
from lisa_ros.data.scene_records import SceneRecord
from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.evaluation.targets import StrictScore, answered
from lisa_small.scenes.commands import NamedThing, Speaker, named_things

GROUPS = ("several", "absent", "small")
SMALL = 0.01
"""Share of the picture below which a thing is small."""
NAMES = 4
"""Names in a command for several targets."""


class Command(NamedTuple):
    """One command of a group about a scene."""

    group: str
    targets: list[NamedThing]


def commands(record: SceneRecord, rng: random.Random) -> Iterator[Command]:
    """At most one command of each group."""
    several = named_things(record, rng, NAMES, "test")
    if sum(bool(ids) for _, ids in several) > 1:
        yield Command("several", several)
    speaker = Speaker(record, rng, "test")
    yield Command("absent", [(speaker.absent_thing().label, [])])
    pixels = record["camera"]["width"] * record["camera"]["height"]
    small = [thing for thing in speaker.single if thing["area"] < SMALL * pixels]
    if small:
        thing = rng.choice(small)
        yield Command("small", [(thing["class"], [thing["id"]])])


def choose(folder: Path, count: int, seed: int) -> list[tuple[SceneRecord, list[Command]]]:
    """The first ``count`` commands of each group, with their scenes."""
    left, chosen = dict.fromkeys(GROUPS, count), []
    for record in read_records(folder):
        rng = random.Random(f"{seed}/{record['id']}")
        mine = [command for command in commands(record, rng) if left[command.group] > 0]
        for command in mine:
            left[command.group] -= 1
        if mine:
            chosen.append((record, mine))
    if short := [group for group, missing in left.items() if missing]:
        raise SystemExit(f"{folder} has too few scenes for {count} commands of {short[0]}: render more")
    return chosen


def measure(model: str, folder: Path, chosen: list[tuple[SceneRecord, list[Command]]]) -> dict[str, dict]:
    """The figures of each group."""
    engine = load_engine(model, device="cpu", precision="fp32")
    scores = {group: StrictScore() for group in GROUPS}
    seconds = dict.fromkeys(GROUPS, 0.0)
    number = dict.fromkeys(GROUPS, 0)
    for record, mine in chosen:
        rgb, ids = read_pair(folder, record)
        encoded = engine.encode(rgb)
        for command in mine:
            begun = time.process_time()
            found = answered(engine, encoded, [name for name, _ in command.targets])
            seconds[command.group] += time.process_time() - begun
            number[command.group] += 1
            for judgement, (_, numbers) in zip(found, command.targets, strict=True):
                scores[command.group].add(judgement, truth_of(ids, numbers))
    return {
        group: {
            **score.figures(),
            "commands": number[group],
            "present_gIoU": present_giou(score),
            "cpu_s_per_command": seconds[group] / max(number[group], 1),
        }
        for group, score in scores.items()
    }


def truth_of(ids: NDArray[np.uint8], numbers: list[int]) -> NDArray[np.uint8]:
    return np.isin(ids, numbers).astype(np.uint8) if numbers else np.zeros(ids.shape, np.uint8)


def present_giou(score: StrictScore) -> float | None:
    """Mean IoU of the targets that are there."""
    present = score.accepted_present + score.rejected_present
    return (score.ious - score.rejected_absent) / present if present else None


def table(scores: dict[str, dict]) -> str:
    lines = ["| model | several: gIoU | N-acc | T-acc | CPU s | absent: N-acc | small: gIoU | T-acc |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for model, groups in scores.items():
        several, absent, small = (groups[group] for group in GROUPS)
        cells = (several["present_gIoU"], several["N_acc"], several["T_acc"], several["cpu_s_per_command"])
        cells += (absent["N_acc"], small["present_gIoU"], small["T_acc"])
        lines.append(f"| {model} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, help="folder of `lisa scenes --split test`")
    parser.add_argument("models", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--count", type=int, default=200, help="commands of each group (200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the scores here")
    args = parser.parse_args()
    chosen = choose(args.scenes, args.count, args.seed)
    scores = {}
    for entry in args.models:
        name, _, model = entry.partition("=")
        scores[name] = measure(model, args.scenes, chosen)
        print(name, json.dumps(scores[name]), flush=True)
        if args.json is not None:
            args.json.write_text(json.dumps(scores, indent=2) + "\n", "utf-8")
    print(table(scores))


if __name__ == "__main__":
    main()
