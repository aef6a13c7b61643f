"""Needs as other people put them, asked on scenes that are there: other_needs.yaml, on which nothing was trained.

    lisa scenes --out scenes/dev --count 100 --seed 5511 --split test
    python benchmarks/other_needs.py --scenes scenes/dev --out scenes/other
    lisa evaluate --data scenes/other

Of each scene up to two needs that something on the table fits beyond doubt, in phrasings kept for tests.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import yaml

from lisa_ros.scenes.commands import Speaker
from lisa_ros.scenes.world import WORLD, Phrase, collect

NEEDS = Path(__file__).with_suffix(".yaml")
EACH = 2  # commands about a scene


def read_needs() -> tuple[Phrase, ...]:
    """Raises ValueError where the file names a class that there is not."""
    table = yaml.safe_load(NEEDS.read_text(encoding="utf-8"))
    return collect({label: {} for label in WORLD.things} | table, "needs")


def ask(scene: dict, needs: tuple[Phrase, ...]) -> list[dict]:
    """Conversations about a line of scenes.jsonl, the same each time."""
    speaker = Speaker(scene, random.Random(f"other needs {scene['seed']} {scene['id']}"), "test")
    made = (speaker.make_phrase("need", "NEED", needs, held=True) for _ in range(4 * EACH))
    return [conversation for conversation in made if conversation is not None][:EACH]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, required=True, help="folder of `lisa scenes`")
    parser.add_argument("--out", type=Path, required=True, help="new folder: the same pictures, these commands")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    for name in ("images", "ids"):
        (arguments.out / name).symlink_to((arguments.scenes / name).resolve())
    needs, asked = read_needs(), 0
    with open(arguments.out / "scenes.jsonl", "w", encoding="utf-8") as lines:
        for line in (arguments.scenes / "scenes.jsonl").read_text(encoding="utf-8").splitlines():
            scene = json.loads(line)
            scene["conversations"] = ask(scene, needs)
            asked += len(scene["conversations"])
            lines.write(json.dumps(scene) + "\n")
    print(f"{arguments.out}: {asked} of {len(needs)} other needs asked")


if __name__ == "__main__":
    main()
