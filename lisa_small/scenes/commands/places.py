"""Requests for a thing by its place: beside another thing, at an edge of the picture, near the camera."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from lisa_ros.data.scene_records import ConversationRecord, ObjectRecord
from lisa_small.scenes.commands.relations import extreme, offset, only_one_towards
from lisa_small.scenes.commands.speaker import Speaker
from lisa_small.scenes.phrasings import DIRECTIONS, Intention
from lisa_small.scenes.world import WORLD


class Place(NamedTuple):
    """A phrase with its article ("the cup left of the book") and its only target."""

    phrase: str
    target: ObjectRecord


def by_place(speaker: Speaker) -> ConversationRecord | None:
    """ "the cup left of the book", "the thing closest to me", "the left one of the two cups"."""
    makers: list[Callable[[Speaker], Place | None]] = [relation, relation, neighbour, edge, one_of_two]
    if speaker.trains:  # these take longest to learn
        makers += [neighbour, edge]
    place = speaker.rng.choice(makers)(speaker)
    if place is None:
        return None
    return speaker.conversation("place", speaker.plain_turn(speaker.request(place.phrase), [place.target]))


def relation(speaker: Speaker) -> Place | None:
    """ "the cup left of the book", "what is left of the book": exactly one thing is."""
    if not speaker.single:
        return None
    rng, camera = speaker.rng, speaker.camera
    anchor, direction = rng.choice(speaker.single), rng.choice(DIRECTIONS)
    words = speaker.say(direction)
    if rng.random() < 0.6:
        others = [objects for objects in speaker.by_class.values() if objects[0] is not anchor]
        if not others:
            return None
        objects = rng.choice(others)
        if len(objects) > 1 or rng.random() < 0.7:
            true = {way: thing for way in DIRECTIONS if (thing := only_one_towards(objects, anchor, camera, way))}
            if speaker.trains and true:
                # A direction that holds: by chance alone, false relations would be ten times as frequent as true ones.
                direction = rng.choice(list(true))
                words = speaker.say(direction)
            if direction not in true:
                return None
            thing = true[direction]
            return Place(f"the {thing['class']} {words} the {anchor['class']}", thing)
    candidates = [other for other in speaker.objects if other is not anchor]
    target = only_one_towards(candidates, anchor, camera, direction)
    if target is None:
        return None
    return Place(speaker.say("THING_AT", r=words, b=anchor["class"]), target)


def neighbour(speaker: Speaker) -> Place | None:
    """ "the thing next to the book": the nearest, in space and in the picture."""
    if not speaker.single or len(speaker.objects) < 3:
        return None
    anchor = speaker.rng.choice(speaker.single)
    others = [other for other in speaker.objects if other is not anchor]
    others.sort(key=lambda other: math.dist(other["position"], anchor["position"]))
    near, next_near = (math.dist(other["position"], anchor["position"]) for other in others[:2])
    close, next_close = (math.hypot(*offset(other, anchor, speaker.camera)) for other in others[:2])
    if next_near < 1.35 * near or next_close < 1.2 * close:
        return None
    return Place(speaker.say("BESIDE", b=anchor["class"]), others[0])


def edge(speaker: Speaker) -> Place | None:
    """ "the leftmost thing", "the thing closest to me"."""
    if len(speaker.objects) < 2:
        return None
    width = speaker.camera["width"]
    ways: tuple[tuple[Intention, Callable[[ObjectRecord], float], float], ...] = (
        ("LEFTMOST", lambda o: -o["centroid"][0] / width, 0.07),
        ("RIGHTMOST", lambda o: o["centroid"][0] / width, 0.07),
        ("NEAREST", lambda o: -o["position"][2], 0.06),
        ("FARTHEST", lambda o: o["position"][2], 0.06),
    )
    intention, key, margin = speaker.rng.choice(ways)
    thing = extreme(speaker.objects, key, margin)
    if thing is None:
        return None
    return Place(speaker.say(intention, o=speaker.rng.choice(("thing", "object", "one"))), thing)


def one_of_two(speaker: Speaker) -> Place | None:
    """ "the left one of the two cups"."""
    if not speaker.pairs:
        return None
    a, b = speaker.rng.choice(speaker.pairs)
    thing = WORLD.things[a["class"]]
    dx, dy = offset(a, b, speaker.camera)
    ways: tuple[tuple[Intention, ObjectRecord], ...]
    if abs(dx) > 0.12 and abs(dx) > abs(dy):
        left, right = (a, b) if dx < 0 else (b, a)
        ways = (("LEFT_ONE", left), ("RIGHT_ONE", right))
    elif abs(a["position"][2] - b["position"][2]) > 0.06 and abs(dy) > 0.1:
        near, far = (a, b) if a["position"][2] < b["position"][2] else (b, a)
        ways = (("NEAR_ONE", near), ("FAR_ONE", far))
    else:
        return None
    intention, target = speaker.rng.choice(ways)
    return Place(speaker.say(intention, n=thing.label, p=thing.plural), target)
