"""Conversations about a scene: which kinds of command there are, and how often each is made."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from lisa_ros.data.scene_records import ConversationRecord, SceneRecord
from lisa_ros.errors import ConfigError
from lisa_small.scenes.commands import follow_ups, places, refusals, requests, several
from lisa_small.scenes.commands.speaker import Speaker, Weight

KINDS = {
    "name": 0.16,
    "use": 0.12,
    "need": 0.20,
    "property": 0.07,
    "place": 0.12,
    "comparison": 0.05,
    "several": 0.08,
    "absent": 0.10,
    "false_premise": 0.04,
    "followup": 0.10,
    "colour": 0.02,
}
"""The kinds of command, and the share of each."""

MAKERS: Mapping[str, Callable[[Speaker], ConversationRecord | None]] = {
    "name": requests.by_name,
    "use": requests.by_use,
    "need": requests.by_need,
    "property": requests.by_property,
    "place": places.by_place,
    "comparison": several.by_size,
    "several": several.by_several,
    "absent": refusals.absent,
    "false_premise": refusals.false_premise,
    "followup": follow_ups.follow_up,
    "colour": requests.for_colour,
}
"""What makes a conversation of each kind, or None where the scene gives none this time."""

TRIES = 8
"""Tries of one kind, before another is drawn: a place or a comparison is often arguable."""


def conversations_by(
    speaker: Speaker, count: int, kinds: Mapping[str, float] | None = None
) -> list[ConversationRecord]:
    """Makes conversations with a speaker; see conversations_for."""
    shares = kinds or KINDS
    if unknown := sorted(shares.keys() - KINDS.keys()):
        raise ConfigError(f"no kind of command is called {', '.join(unknown)}; choose from {', '.join(KINDS)}")
    made: list[ConversationRecord] = []
    for _ in range(4 * count):
        if len(made) == count:
            break
        kind = speaker.rng.choices(list(shares), list(shares.values()))[0]
        for _ in range(TRIES):
            conversation = MAKERS[kind](speaker)
            if conversation is not None and conversation not in made:
                made.append(conversation)
                break
    return made


def conversations_for(
    scene: SceneRecord,
    rng: random.Random,
    count: int,
    split: str,
    kinds: Mapping[str, float] | None = None,
    weight: Weight | None = None,
) -> list[ConversationRecord]:
    """Makes different conversations about a scene. The same ``rng`` makes the same ones.

    Args:
        scene: A line of ``scenes.jsonl``; of it, ``camera`` and ``objects`` are used.
        rng: The source of all chance.
        count: How many; there are fewer where the scene gives no more.
        split: "train" uses the phrasings of training. Every other split uses those of tests alone, and takes half of
            its needs from those that training never names.
        kinds: Relative weight of each kind of command; KINDS by default.
        weight: Relative weight of a phrase of the world table, given whether something in the scene fits it. With it,
            a conversation that has such a phrase in its first turn names it as ``phrase``.

    Raises:
        ConfigError: ``kinds`` has a kind that does not exist.
    """
    return conversations_by(Speaker(scene, rng, split, weight), count, kinds)
