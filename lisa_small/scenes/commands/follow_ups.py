"""Conversations of two turns, whose second refers to the first."""

from __future__ import annotations

from lisa_ros.data.scene_records import ConversationRecord, ObjectRecord, TurnRecord
from lisa_small.scenes.commands.answers import answer_without
from lisa_small.scenes.commands.places import one_of_two
from lisa_small.scenes.commands.relations import only_one_towards
from lisa_small.scenes.commands.speaker import Speaker
from lisa_small.scenes.phrasings import DIRECTIONS, Intention
from lisa_small.scenes.world import WORLD, Phrase, Phrases

TwoTurns = tuple[TurnRecord, TurnRecord]


def follow_up(speaker: Speaker) -> ConversationRecord | None:
    """ "And what goes with it?", "No, the other one.", "What is left of it?"."""
    makers = (another, companion, companion, other_one, other_one, around_it, instead, again)
    turns = speaker.rng.choice(makers)(speaker)
    return turns and speaker.conversation("followup", *turns)


def first_turn(speaker: Speaker, thing: ObjectRecord) -> TurnRecord:
    """A request whose only target is ``thing``, the only one of its class."""
    label = thing["class"]
    supplies: tuple[tuple[Intention, Phrases], ...] = (("USE", WORLD.uses), ("NEED", WORLD.needs))
    phrases: list[tuple[Intention, Phrase]] = [
        (intention, phrase)
        for intention, supply in supplies
        for phrase in speaker.with_target(supply.of.get(label, ()))
        if speaker.targets_of(phrase) == [thing]
    ]
    if phrases and speaker.rng.random() < 0.5:
        intention, phrase = speaker.rng.choice(phrases)
        return speaker.plain_turn(speaker.say(intention, x=phrase.text), [thing])
    return speaker.plain_turn(speaker.say("NAME", x=speaker.name_of(thing)), [thing])


def another(speaker: Speaker) -> TwoTurns | None:
    """Another thing by name."""
    if len(speaker.single) < 2:
        return None
    a, b = speaker.rng.sample(speaker.single, 2)
    second = speaker.say("OTHER_NAME", x=speaker.name_of(b))
    return first_turn(speaker, a), speaker.plain_turn(second, [b])


def companion(speaker: Speaker) -> TwoTurns | None:
    """What goes with the target of the first turn."""
    pairs = []
    for thing in speaker.single:
        labels = WORLD.things[thing["class"]].goes_with
        partners = [other for label in labels for other in speaker.by_class.get(label, ())]
        if partners:
            pairs.append((thing, partners))
    if not pairs:
        return None
    thing, partners = speaker.rng.choice(pairs)
    return first_turn(speaker, thing), speaker.plain_turn(speaker.say("GOES_WITH"), partners)


def other_one(speaker: Speaker) -> TwoTurns | None:
    """The other of two things of a class."""
    place = one_of_two(speaker)
    if place is None:
        return None
    other = next(thing for thing in speaker.by_class[place.target["class"]] if thing is not place.target)
    first = speaker.plain_turn(speaker.request(place.phrase), [place.target])
    return first, speaker.plain_turn(speaker.say("OTHER_ONE"), [other])


def around_it(speaker: Speaker) -> TwoTurns | None:
    """The only thing in a direction from the target of the first turn."""
    if not speaker.single:
        return None
    anchor, direction = speaker.rng.choice(speaker.single), speaker.rng.choice(DIRECTIONS)
    candidates = [other for other in speaker.objects if other is not anchor]
    thing = only_one_towards(candidates, anchor, speaker.camera, direction)
    if thing is None:
        return None
    second = speaker.say("AROUND_IT", r=speaker.say(direction))
    return first_turn(speaker, anchor), speaker.plain_turn(second, [thing])


def instead(speaker: Speaker) -> TwoTurns | None:
    """Something that is there, after a request for something that is not."""
    if not speaker.single:
        return None
    gone, thing = speaker.absent_thing(), speaker.rng.choice(speaker.single)
    first = speaker.turn(speaker.say("NAME", x=speaker.name(gone)), [], answer_without(gone.label, gone.many))
    second = speaker.say("INSTEAD", x=speaker.name_of(thing))
    return first, speaker.plain_turn(second, [thing])


def again(speaker: Speaker) -> TwoTurns | None:
    """The same target once more."""
    if not speaker.single:
        return None
    thing = speaker.rng.choice(speaker.single)
    return first_turn(speaker, thing), speaker.plain_turn(speaker.say("AGAIN"), [thing])
