"""Requests among several things: all of a group, both of a class, two by name, the largest of some."""

from __future__ import annotations

import math

from lisa_ros.data.scene_records import ConversationRecord, ObjectRecord, TurnRecord
from lisa_small.scenes.commands.relations import extreme
from lisa_small.scenes.commands.speaker import Speaker
from lisa_small.scenes.world import WORLD, Group


def by_size(speaker: Speaker) -> ConversationRecord | None:
    """ "the largest toy": largest or smallest of all or of a group, by longest side in metres and by area alike."""
    scopes = [("thing", speaker.objects), ("object", speaker.objects)]
    for group in WORLD.groups:
        members = members_of(group, speaker)
        if group.one and len(members) > 1 and not group.unsure & speaker.present:
            scopes += [(group.one, members)] * 2
    word, objects = speaker.rng.choice(scopes)
    sign = speaker.rng.choice((1, -1))
    if len(objects) < 2:
        return None
    longest = extreme(objects, lambda o: sign * math.log(max(o["size"])), math.log(1.2))
    widest = extreme(objects, lambda o: sign * math.log(o["area"]), math.log(1.3))
    if longest is None or longest is not widest:
        return None
    command = speaker.request(speaker.say("LARGEST" if sign > 0 else "SMALLEST", o=word))
    return speaker.conversation("comparison", speaker.plain_turn(command, [longest]))


def by_several(speaker: Speaker) -> ConversationRecord | None:
    """ "everything one eats with", "both cups", "the fork and the plate"."""
    turn = speaker.rng.choice((group, group, both, both, pair))(speaker)
    return turn and speaker.conversation("several", turn)


def members_of(group: Group, speaker: Speaker) -> list[ObjectRecord]:
    """The objects of the scene that belong to a group."""
    return [thing for thing in speaker.objects if thing["class"] in group.members]


def group(speaker: Speaker) -> TurnRecord | None:
    """All members of a group, of two classes at least."""
    options = []
    for entry in WORLD.groups:
        members = members_of(entry, speaker)
        if not entry.unsure & speaker.present and len({thing["class"] for thing in members}) > 1:
            options.append((entry, members))
    if not options:
        return None
    chosen, members = speaker.rng.choice(options)
    phrase = speaker.rng.choice(chosen.phrases if speaker.trains else chosen.held)
    return speaker.explained_turn(speaker.request(phrase), members, chosen.because)


def both(speaker: Speaker) -> TurnRecord | None:
    """The two objects of a class."""
    if not speaker.pairs:
        return None
    objects = speaker.rng.choice(speaker.pairs)
    thing = WORLD.things[objects[0]["class"]]
    if thing.many and thing.plural == thing.label:
        return None  # "both scissors" is clear, "the keys" is not
    return speaker.explained_turn(speaker.request(speaker.say("BOTH", n=thing.label, p=thing.plural)), objects)


def pair(speaker: Speaker) -> TurnRecord | None:
    """Two objects of different classes, by name."""
    if len(speaker.single) < 2:
        return None
    a, b = speaker.rng.sample(speaker.single, 2)
    return speaker.explained_turn(speaker.request(speaker.say("PAIR", a=a["class"], b=b["class"])), [a, b])
