"""Commands that nothing fits: the thing is absent, or it is there and the command says something false about it."""

from __future__ import annotations

from lisa_ros.data.scene_records import ConversationRecord, TurnRecord
from lisa_small.scenes.colours import COLOURS
from lisa_small.scenes.commands.answers import answer_denying, answer_without
from lisa_small.scenes.commands.relations import is_towards
from lisa_small.scenes.commands.speaker import EXPLAINED, Speaker
from lisa_small.scenes.phrasings import DIRECTIONS, Intention
from lisa_small.scenes.world import WORLD, Phrase, Phrases


def absent(speaker: Speaker) -> ConversationRecord | None:
    """ "the umbrella" where there is none."""
    rng = speaker.rng
    choice = rng.random()
    # Training uses fewer names: the meaning of a need is learned best where nothing in the scene hints at it.
    named, never, described = (0.25, 0.43, 0.95) if speaker.trains else (0.4, 0.55, 0.92)
    phrase: Phrase | None = None
    if choice < named:
        thing = speaker.absent_thing()
        command, answer = speaker.say("NAME", x=speaker.name(thing)), answer_without(thing.label, thing.many)
    elif choice < never:
        name = rng.choice(WORLD.never[speaker.split])
        command, answer = speaker.say("NAME", x=name), answer_without(name)
    elif choice < described:
        if (described_thing := _absent_phrase(speaker)) is None:
            return None
        intention, phrase = described_thing
        # Of several classes that fit always the first: there is one right answer to learn.
        wanted = next(thing for label, thing in WORLD.things.items() if label in phrase.fits)
        command, answer = speaker.say(intention, x=phrase.text), answer_without(wanted.label, wanted.many)
    else:
        groups = [group for group in WORLD.groups if not (group.members | group.unsure) & speaker.present]
        if not groups:
            return None
        group = rng.choice(groups)
        command = speaker.request(rng.choice(group.phrases if speaker.trains else group.held))
        answer = answer_without(group.label, many=group.label.endswith("s"))
    explain = rng.random() < EXPLAINED / 2
    return speaker.conversation("absent", speaker.turn(command, [], answer, explain), phrase=phrase)


def _absent_phrase(speaker: Speaker) -> tuple[Intention, Phrase] | None:
    """A use, need or property that nothing in the scene fits, with its intention."""
    kinds: tuple[tuple[Intention, Phrases], ...] = (
        ("USE", WORLD.uses),
        ("NEED", WORLD.needs),
        ("NEED", WORLD.needs),
        ("PROPERTY", WORLD.properties),
    )
    intention, phrases = speaker.rng.choice(kinds)
    options: list[Phrase] = []
    if speaker.trains:
        options = speaker.without_target(phrases.of.get(speaker.absent_thing().label, ()))
    options = options or speaker.without_target(phrases)
    return (intention, speaker.choose(options, there=False)) if options else None


def false_premise(speaker: Speaker) -> ConversationRecord | None:
    """The thing is there, but it is elsewhere, of another colour or without the property."""
    makers = [wrong_place, wrong_place, wrong_paint, wrong_property]
    if speaker.trains:  # few things have a colour
        makers.append(wrong_paint)
    turn = speaker.rng.choice(makers)(speaker)
    return turn and speaker.conversation("false_premise", turn)


def wrong_place(speaker: Speaker) -> TurnRecord | None:
    """ "the cup left of the book", where it is right of it."""
    if len(speaker.single) < 2:
        return None
    a, b = speaker.rng.sample(speaker.single, 2)
    true = [direction for direction in DIRECTIONS if is_towards(a, b, speaker.camera, direction) == "yes"]
    if not true:
        return None
    relation = speaker.say(WORLD.opposites[true[0]])
    answer = answer_denying(a["class"], f"{relation} the {b['class']}", WORLD.things[a["class"]].many)
    return speaker.turn(speaker.request(f"the {a['class']} {relation} the {b['class']}"), [], answer)


def wrong_paint(speaker: Speaker) -> TurnRecord | None:
    """ "the blue mug", where it is red."""
    painted = [thing for thing in speaker.objects if thing.get("color")]
    if not painted:
        return None
    thing = speaker.rng.choice(painted)
    colours = {other["color"] for other in speaker.by_class[thing["class"]]}
    seen = {colour for colour in colours if colour is not None}
    if seen != colours:
        return None  # one of them is unpainted: its colour is not known
    unclear = seen | {other for colour in seen for other in WORLD.alike.get(colour, ())}
    paint = speaker.rng.choice([colour for colour in COLOURS if colour not in unclear])
    # The answer begins with the colour that is seen: whether it is the one asked for can then be read off the words.
    name, many = speaker.all_of(thing["class"])
    answer = answer_denying(f"{' and '.join(sorted(seen))} {name}", paint, many)
    return speaker.turn(speaker.say("NAME", x=f"{paint} {thing['class']}"), [], answer)


def wrong_property(speaker: Speaker) -> TurnRecord | None:
    """ "the cup that has a blade"."""
    thing = speaker.rng.choice(speaker.objects)
    options = speaker.without_target(WORLD.properties)
    if not options:
        return None
    phrase = f"the {thing['class']} that {speaker.rng.choice(options).text}"
    name, many = speaker.all_of(thing["class"])
    return speaker.turn(speaker.request(phrase), [], answer_denying(name, "like that", many))
