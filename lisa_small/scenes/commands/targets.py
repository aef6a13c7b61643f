"""Names of several things, for a request that lists its targets."""

from __future__ import annotations

import random

from lisa_ros.data.scene_records import SceneRecord
from lisa_small.scenes.commands.speaker import Speaker

NamedThing = tuple[str, list[int]]
"""A name, and the ids of all objects that it means; none where it is not in the scene."""

ABSENT = 0.35
"""Share of names of things that are not in the scene."""


def named_things(scene: SceneRecord, rng: random.Random, count: int, split: str) -> list[NamedThing]:
    """Make up to ``count`` different names, of things that are there and of others.

    Classes have their own names, not synonyms, since an answer repeats them. A class of two objects is named in the
    plural and means both.

    Args:
        scene: A line of ``scenes.jsonl``.
        rng: The source of all chance.
        count: How many.
        split: Of scenes; "train" asks for things that are akin to what is there more often.
    """
    speaker = Speaker(scene, rng, split)
    present = sorted(speaker.present)
    rng.shuffle(present)
    made: dict[str, list[int]] = {}
    for _ in range(count):
        if present and rng.random() >= ABSENT:
            label = present.pop()
            made.setdefault(speaker.all_of(label)[0], [thing["id"] for thing in speaker.by_class[label]])
        else:
            made.setdefault(speaker.absent_thing().label, [])
    return list(made.items())
