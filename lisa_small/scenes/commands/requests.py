"""Requests for a thing by its name, colour, use, need or property."""

from __future__ import annotations

from lisa_ros.data.scene_records import ConversationRecord
from lisa_small.scenes.commands.speaker import Speaker
from lisa_small.scenes.world import WORLD


def by_name(speaker: Speaker) -> ConversationRecord | None:
    """ "the hammer"; "the red mug"."""
    painted = [thing for thing in speaker.objects if thing.get("color")]
    # Training hears as many true colours as false ones, or the model would learn to doubt or to believe all of them.
    if painted and speaker.rng.random() < (0.5 if speaker.trains else 0.3):
        thing = speaker.rng.choice(painted)
        same = [other for other in speaker.by_class[thing["class"]] if other["color"] == thing["color"]]
        if len(same) == 1:
            command = speaker.say("NAME", x=f"{thing['color']} {thing['class']}")
            return speaker.conversation("name", speaker.painted_turn(command, thing))
    if not speaker.single:
        return None
    thing = speaker.rng.choice(speaker.single)
    turn = speaker.explained_turn(speaker.say("NAME", x=speaker.name_of(thing)), [thing])
    return turn and speaker.conversation("name", turn)


def for_colour(speaker: Speaker) -> ConversationRecord | None:
    """ "What colour is the cup?" Only the picture has the answer, unlike in "the red cup"."""
    painted = [thing for thing in speaker.single if thing.get("color")]
    if not painted:
        return None
    thing = speaker.rng.choice(painted)
    command = speaker.say("COLOUR_OF", x=speaker.name_of(thing))
    return speaker.conversation("colour", speaker.painted_turn(command, thing))


def by_use(speaker: Speaker) -> ConversationRecord | None:
    """ "something to drive a nail with"."""
    return speaker.phrase_conversation("use", "USE", WORLD.uses)


def by_need(speaker: Speaker) -> ConversationRecord | None:
    """ "I am thirsty." Tests take half of them from needs that training never names."""
    if not speaker.trains and speaker.rng.random() < 0.5:
        return speaker.phrase_conversation("need", "NEED", WORLD.held_needs, held_out_content=True)
    return speaker.phrase_conversation("need", "NEED", WORLD.needs)


def by_property(speaker: Speaker) -> ConversationRecord | None:
    """ "Which one must not get wet?"."""
    return speaker.phrase_conversation("property", "PROPERTY", WORLD.properties)
