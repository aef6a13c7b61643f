"""Commands in words written apart from ours, asked on scenes that are there: other_words.yaml, never trained on.

    lisa scenes --out scenes/dev --count 100 --seed 5511 --split test
    python benchmarks/other_words.py --scenes scenes/dev --out scenes/other
    lisa evaluate --data scenes/other

Uses, needs and properties are the file's own; of phrasings, what the file has none of is said as in tests. Two in three
commands are a use, a need or a property, the others of all kinds.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import yaml

from lisa_ros.data.scene_records import ConversationRecord
from lisa_small.scenes.commands import KINDS, Speaker, conversations_by
from lisa_small.scenes.phrasings import Intention
from lisa_small.scenes.world import WORLD, Phrases, collect

WORDS = Path(__file__).with_suffix(".yaml")
EACH = 8
"""Conversations about a scene."""

SHARES = {kind: share / 2 for kind, share in KINDS.items()} | {"use": 0.17, "need": 0.33, "property": 0.17}

TABLE = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
if unknown := TABLE["things"].keys() - WORLD.things.keys():
    raise ValueError(f"{', '.join(sorted(unknown))}: no such class in {WORDS.name}")
THINGS = {label: {} for label in WORLD.things} | TABLE["things"]
CONTENT = {kind: collect(THINGS, field) for kind, field in (("use", "uses"), ("need", "needs"), ("property", "is"))}


class OtherSpeaker(Speaker):
    """Uses the words of the file wherever it has any."""

    def say(self, intention: Intention, **fields: str) -> str:
        others = TABLE["phrasings"].get(intention)
        return self.rng.choice(others).format(**fields) if others else super().say(intention, **fields)

    def phrase_conversation(
        self, kind: str, intention: Intention, phrases: Phrases, held_out_content: bool = False
    ) -> ConversationRecord | None:
        return super().phrase_conversation(kind, intention, CONTENT[kind], held_out_content=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=Path, required=True, help="folder of `lisa scenes`")
    parser.add_argument("--out", type=Path, required=True, help="new folder: the same pictures, these commands")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True)
    for name in ("images", "ids"):
        (arguments.out / name).symlink_to((arguments.scenes / name).resolve())
    asked = 0
    with open(arguments.out / "scenes.jsonl", "w", encoding="utf-8") as lines:
        for line in (arguments.scenes / "scenes.jsonl").read_text(encoding="utf-8").splitlines():
            scene = json.loads(line)
            rng = random.Random(f"other words {scene['seed']} {scene['id']}")
            scene["conversations"] = conversations_by(OtherSpeaker(scene, rng, "test"), EACH, SHARES)
            asked += len(scene["conversations"])
            lines.write(json.dumps(scene) + "\n")
    print(f"{arguments.out}: {asked} conversations")


if __name__ == "__main__":
    main()
