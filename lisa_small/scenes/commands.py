"""Commands as people speak, each with its true targets and its answer, for a rendered scene.

A conversation is ``{"kind", "held_out", "held_out_content", "turns": [{"command", "targets", "answer", "explain"}]}``.
``targets`` are ids of objects of the scene: always ALL that fit, one ``[SEG]`` stands for their union. An answer names
the class before ``[SEG]``; where nothing fits it has none. A command that one could argue about is not made.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from lisa_ros.errors import ConfigError
from lisa_small.scenes import phrasings
from lisa_small.scenes.colours import COLOURS
from lisa_small.scenes.world import DIRECTIONS, WORLD, Phrase, Phrases, Thing

Weight = Callable[[str, bool], float]
"""How often a phrase is asked beside its like, above 0: of its text and whether something here fits it."""

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
EXPLAINED = 0.2  # of the commands that have one reason
MOST_CLASSES = 4  # in one answer
TRIES = 8
CONTRACTIONS = (
    ("I am ", "I'm "),
    ("It is ", "It's "),
    ("What is ", "What's "),
    ("Where is ", "Where's "),
    ("I would ", "I'd "),
    ("do not ", "don't "),
    ("does not ", "doesn't "),
    ("cannot ", "can't "),
    ("Let us ", "Let's "),
)


def enumerate_words(words: list[str]) -> str:
    """ "the a, the b and the c" """
    words = [f"the {word}" for word in words]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def answer_with(objects: list[dict], paint: str = "", because: str = "") -> str:
    """ "It is the hammer, [SEG]." or "They are the forks and the spoon, [SEG]."; the reason after it."""
    counts: dict[str, int] = {}
    for thing in objects:
        counts[thing["class"]] = counts.get(thing["class"], 0) + 1
    names = [WORLD.things[c].plural if n > 1 else c for c, n in sorted(counts.items())]
    if paint:
        names = [f"{paint} {name}" for name in names]
    many = len(objects) > 1 or WORLD.things[objects[0]["class"]].many
    start = "They are" if many else "It is"
    return f"{start} {enumerate_words(names)}, [SEG]." + (f" {because}" if because else "")


def answer_without(name: str, many: bool = False) -> str:
    return f"There are no {name} here." if many else f"There is no {name} here."


def answer_denying(name: str, what: str, many: bool = False) -> str:
    """ "The cup is not left of the book.": it is there, but what was said of it is not true."""
    return f"The {name} {'are' if many else 'is'} not {what}."


def offset(a: dict, b: dict, scene: dict) -> tuple[float, float]:
    """From b to a in the picture, in image widths and heights: x right, y down."""
    camera = scene["camera"]
    dx = (a["centroid"][0] - b["centroid"][0]) / camera["width"]
    dy = (a["centroid"][1] - b["centroid"][1]) / camera["height"]
    return dx, dy


def towards(a: dict, b: dict, scene: dict, direction: str) -> str:
    """Is a LEFT (RIGHT, FRONT, BEHIND) of b, as the camera sees it: "yes", "no" or "unclear"."""
    dx, dy = offset(a, b, scene)
    along, across = {"LEFT": (-dx, dy), "RIGHT": (dx, dy), "FRONT": (dy, dx), "BEHIND": (-dy, dx)}[direction]
    if along > 0.12 and along > 1.2 * abs(across):
        return "yes"
    return "no" if along < 0.03 else "unclear"


def extreme(objects: list[dict], key: Callable[[dict], float], margin: float) -> dict | None:
    """The object with the largest key, if it leads the next by ``margin``."""
    ordered = sorted(objects, key=key, reverse=True)
    if len(ordered) < 2 or key(ordered[0]) - key(ordered[1]) < margin:
        return None
    return ordered[0]


def contract(text: str) -> str:
    """As spoken: "I'm", "don't"."""
    for long, short in CONTRACTIONS:
        text = text.replace(long, short)
    return text


class Speaker:
    """Makes conversations about one scene; all chance comes from ``rng``. weight: as conversations_for has it."""

    def __init__(self, scene: dict, rng: random.Random, split: str, weight: Weight | None = None) -> None:
        self.scene, self.rng, self.weight = scene, rng, weight
        self.split = "train" if split == "train" else "test"
        self.objects: list[dict] = scene["objects"]
        self.by_class: dict[str, list[dict]] = {}
        for thing in self.objects:
            self.by_class.setdefault(thing["class"], []).append(thing)
        self.present = frozenset(self.by_class)
        self.single = [objects[0] for objects in self.by_class.values() if len(objects) == 1]
        self.pairs = [objects for objects in self.by_class.values() if len(objects) == 2]

    # -- words

    def say(self, intention: str, **words: str) -> str:
        return self.rng.choice(getattr(phrasings, intention)[self.split]).format(**words)

    def whole(self, phrase: str) -> str:
        return self.say("WHOLE", x=phrase)

    def name(self, thing: Thing) -> str:
        """The class's own name two times in three, else a synonym."""
        return thing.label if self.rng.random() < 0.67 else self.rng.choice(thing.names)

    def all_of(self, label: str) -> tuple[str, bool]:
        """What all that is here of a class is called, and whether it is spoken of as many."""
        thing, several = WORLD.things[label], len(self.by_class[label]) > 1
        return (thing.plural if several else label), several or thing.many

    def colloquial(self, command: str) -> str:
        """As typed or heard: now and then polite, without capitals or without the full stop."""
        rng = self.rng
        if rng.random() < 0.3:
            command = contract(command)
        if "segment" not in command and rng.random() < 0.08:
            command = self.say("BEFORE") + (
                command if command.startswith(("I ", "I'")) else command[0].lower() + command[1:]
            )
        if command[-1] in ".?!" and rng.random() < 0.05:
            command += self.say("AFTER")
        if rng.random() < 0.08:
            command = command.lower()
        if command.endswith(".") and rng.random() < 0.1:
            command = command[:-1]
        return command[0].upper() + command[1:] if rng.random() < 0.25 else command

    # -- conversations

    def talk(self, count: int, kinds: dict[str, float] | None = None) -> list[dict]:
        """What conversations_for promises."""
        shares = kinds or KINDS
        if unknown := sorted(shares.keys() - KINDS.keys()):
            raise ConfigError(f"no kind of command is called {', '.join(unknown)}; choose from {', '.join(KINDS)}")
        made: list[dict] = []
        for _ in range(4 * count):
            if len(made) == count:
                break
            kind = self.rng.choices(list(shares), list(shares.values()))[0]
            for _ in range(TRIES):  # a place or a comparison is often arguable: try others before giving up the kind
                conversation = getattr(self, f"make_{kind}")()
                if conversation is not None and conversation not in made:
                    made.append(conversation)
                    break
        return made

    def turn(self, command: str, objects: Iterable[dict], answer: str, explain: bool = False) -> dict:
        targets = sorted(thing["id"] for thing in objects)
        return {"command": self.colloquial(command), "targets": targets, "answer": answer, "explain": explain}

    def conversation(self, kind: str, *turns: dict, held_content: bool = False, phrase: Phrase | None = None) -> dict:
        held_out = self.split == "test"
        made = {"kind": kind, "held_out": held_out, "held_out_content": held_content, "turns": list(turns)}
        return made if phrase is None or self.weight is None else made | {"phrase": phrase.text}

    def found(self, command: str, objects: list[dict], because: str = "") -> dict | None:
        """A turn whose targets are ``objects``; explained at times. None where the answer would be a list."""
        labels = {thing["class"] for thing in objects}
        if not 1 <= len(labels) <= MOST_CLASSES:
            return None
        if not because and len(objects) == 1:
            because = WORLD.things[objects[0]["class"]].because
        explain = bool(because) and self.rng.random() < EXPLAINED
        return self.turn(command, objects, answer_with(objects, because=because if explain else ""), explain)

    def fitting(self, phrases: Iterable[Phrase]) -> list[Phrase]:
        """Those that something here fits beyond doubt."""
        return [phrase for phrase in phrases if phrase.fits & self.present and not phrase.unsure & self.present]

    def meant_by(self, phrase: Phrase) -> list[dict]:
        """All that fits."""
        return [thing for thing in self.objects if thing["class"] in phrase.fits]

    def missing(self, phrases: Iterable[Phrase]) -> list[Phrase]:
        return [phrase for phrase in phrases if not (phrase.fits | phrase.unsure) & self.present]

    def choose(self, phrases: Sequence[Phrase], there: bool) -> Phrase:
        """One of them. there: whether something here fits them."""
        if self.weight is None:
            return self.rng.choice(phrases)
        return self.rng.choices(phrases, [self.weight(phrase.text, there) for phrase in phrases])[0]

    def make_name(self) -> dict | None:
        painted = [thing for thing in self.objects if thing.get("color")]
        # Training says as many colours truly as falsely, or the model would come to doubt, or to believe, all of them.
        if painted and self.rng.random() < (0.5 if self.split == "train" else 0.3):
            thing = self.rng.choice(painted)
            same = [other for other in self.by_class[thing["class"]] if other["color"] == thing["color"]]
            if len(same) == 1:
                command = self.say("NAME", x=f"{thing['color']} {thing['class']}")
                return self.conversation("name", self.turn(command, same, answer_with(same, paint=thing["color"])))
        if not self.single:
            return None
        thing = self.rng.choice(self.single)
        turn = self.found(self.say("NAME", x=self.name(WORLD.things[thing["class"]])), [thing])
        return turn and self.conversation("name", turn)

    def make_colour(self) -> dict | None:
        """ "What colour is the cup?" The picture alone says it; about "the red cup" the question does, mostly."""
        painted = [thing for thing in self.single if thing.get("color")]
        if not painted:
            return None
        thing = self.rng.choice(painted)
        command = self.say("COLOUR_OF", x=self.name(WORLD.things[thing["class"]]))
        return self.conversation("colour", self.turn(command, [thing], answer_with([thing], paint=thing["color"])))

    def make_phrase(self, kind: str, intention: str, phrases: Phrases, held: bool = False) -> dict | None:
        # First the target, then one of its phrases: things with many phrases are not asked for more often.
        label = self.rng.choice(sorted(self.present))
        options = self.fitting(phrases.of.get(label, ()))
        if not options:
            return None
        phrase = self.choose(options, there=True)
        turn = self.found(self.say(intention, x=phrase.text), self.meant_by(phrase))
        return turn and self.conversation(kind, turn, held_content=held, phrase=phrase)

    def make_use(self) -> dict | None:
        return self.make_phrase("use", "USE", WORLD.uses)

    def make_need(self) -> dict | None:
        if self.split == "test" and self.rng.random() < 0.5:
            return self.make_phrase("need", "NEED", WORLD.held_needs, held=True)
        return self.make_phrase("need", "NEED", WORLD.needs)

    def make_property(self) -> dict | None:
        return self.make_phrase("property", "PROPERTY", WORLD.properties)

    def make_place(self) -> dict | None:
        makers = [self.place_relation, self.place_relation, self.place_neighbour, self.place_extreme, self.place_pair]
        if self.split == "train":  # what takes longest to learn
            makers += [self.place_neighbour, self.place_extreme]
        phrase, thing = self.rng.choice(makers)() or ("", None)
        if thing is None:
            return None
        return self.conversation("place", self.turn(self.whole(phrase), [thing], answer_with([thing])))

    def place_relation(self) -> tuple[str, dict] | None:
        """ "the cup left of the book", "what is left of the book": exactly one thing is."""
        if not self.single:
            return None
        anchor, direction = self.rng.choice(self.single), self.rng.choice(DIRECTIONS)
        relation = self.say(direction)
        if self.rng.random() < 0.6:
            others = [objects for objects in self.by_class.values() if objects[0] is not anchor]
            if not others:
                return None
            objects = self.rng.choice(others)
            if len(objects) > 1 or self.rng.random() < 0.7:
                true = {way: thing for way in DIRECTIONS if (thing := self.only(objects, anchor, way))}
                if self.split == "train" and true:
                    # Whichever holds: by chance alone, what is false of two things would be heard ten times as often.
                    direction = self.rng.choice(list(true))
                    relation = self.say(direction)
                if direction not in true:
                    return None
                thing = true[direction]
                return f"the {thing['class']} {relation} the {anchor['class']}", thing
        thing = self.only([other for other in self.objects if other is not anchor], anchor, direction)
        if thing is None:
            return None
        return self.say("THING_AT", r=relation, b=anchor["class"]), thing

    def only(self, objects: list[dict], anchor: dict, direction: str) -> dict | None:
        """The one object that lies there, if that is beyond doubt."""
        verdicts = [(towards(thing, anchor, self.scene, direction), thing) for thing in objects]
        clear = [thing for verdict, thing in verdicts if verdict == "yes"]
        # A thing diagonally away is neither: count it as doubt only where it is clearly on that side.
        doubtful = [thing for verdict, thing in verdicts if verdict == "unclear"]
        return clear[0] if len(clear) == 1 and not doubtful else None

    def place_neighbour(self) -> tuple[str, dict] | None:
        if not self.single or len(self.objects) < 3:
            return None
        anchor = self.rng.choice(self.single)
        others = [other for other in self.objects if other is not anchor]
        others.sort(key=lambda other: math.dist(other["position"], anchor["position"]))
        near, next_near = (math.dist(other["position"], anchor["position"]) for other in others[:2])
        close = math.hypot(*offset(others[0], anchor, self.scene)), math.hypot(*offset(others[1], anchor, self.scene))
        if next_near < 1.35 * near or close[1] < 1.2 * close[0]:
            return None
        return self.say("BESIDE", b=anchor["class"]), others[0]

    def place_extreme(self) -> tuple[str, dict] | None:
        if len(self.objects) < 2:
            return None
        width = self.scene["camera"]["width"]
        intention, key, margin = self.rng.choice(
            (
                ("LEFTMOST", lambda o: -o["centroid"][0] / width, 0.07),
                ("RIGHTMOST", lambda o: o["centroid"][0] / width, 0.07),
                ("NEAREST", lambda o: -o["position"][2], 0.06),
                ("FARTHEST", lambda o: o["position"][2], 0.06),
            )
        )
        thing = extreme(self.objects, key, margin)
        if thing is None:
            return None
        return self.say(intention, o=self.rng.choice(("thing", "object", "one"))), thing

    def place_pair(self) -> tuple[str, dict] | None:
        if not self.pairs:
            return None
        a, b = self.rng.choice(self.pairs)
        thing = WORLD.things[a["class"]]
        dx, dy = offset(a, b, self.scene)
        if abs(dx) > 0.12 and abs(dx) > abs(dy):
            left, right = (a, b) if dx < 0 else (b, a)
            intention, chosen = self.rng.choice((("LEFT_ONE", left), ("RIGHT_ONE", right)))
        elif abs(a["position"][2] - b["position"][2]) > 0.06 and abs(dy) > 0.1:
            near, far = (a, b) if a["position"][2] < b["position"][2] else (b, a)
            intention, chosen = self.rng.choice((("NEAR_ONE", near), ("FAR_ONE", far)))
        else:
            return None
        return self.say(intention, n=thing.label, p=thing.plural), chosen

    def make_comparison(self) -> dict | None:
        """Largest and smallest of all or of a group: in truth (longest side) and in the picture (area) alike."""
        scopes = [("thing", self.objects), ("object", self.objects)]
        for group in WORLD.groups:
            members = [thing for thing in self.objects if thing["class"] in group.members]
            if group.one and len(members) > 1 and not group.unsure & self.present:
                scopes += [(group.one, members)] * 2
        word, objects = self.rng.choice(scopes)
        sign = self.rng.choice((1, -1))
        if len(objects) < 2:
            return None
        longest = extreme(objects, lambda o: sign * math.log(max(o["size"])), math.log(1.2))
        widest = extreme(objects, lambda o: sign * math.log(o["area"]), math.log(1.3))
        if longest is None or longest is not widest:
            return None
        command = self.whole(self.say("LARGEST" if sign > 0 else "SMALLEST", o=word))
        return self.conversation("comparison", self.turn(command, [longest], answer_with([longest])))

    def make_several(self) -> dict | None:
        makers = [
            self.several_group,
            self.several_group,
            self.several_of_a_class,
            self.several_of_a_class,
            self.several_named,
        ]
        turn = self.rng.choice(makers)()
        return turn and self.conversation("several", turn)

    def several_group(self) -> dict | None:
        groups = [group for group in WORLD.groups if not group.unsure & self.present]
        options = []
        for group in groups:
            members = [thing for thing in self.objects if thing["class"] in group.members]
            if len(members) > 1 and len({thing["class"] for thing in members}) > 1:
                options.append((group, members))
        if not options:
            return None
        group, members = self.rng.choice(options)
        phrase = self.rng.choice(group.phrases if self.split == "train" else group.held)
        return self.found(self.whole(phrase), members, group.because)

    def several_of_a_class(self) -> dict | None:
        if not self.pairs:
            return None
        objects = self.rng.choice(self.pairs)
        thing = WORLD.things[objects[0]["class"]]
        if thing.many and thing.plural == thing.label:
            return None  # "both scissors" is clear, "the keys" is not
        return self.found(self.whole(self.say("BOTH", n=thing.label, p=thing.plural)), objects)

    def several_named(self) -> dict | None:
        if len(self.single) < 2:
            return None
        a, b = self.rng.sample(self.single, 2)
        return self.found(self.whole(self.say("PAIR", a=a["class"], b=b["class"])), [a, b])

    # -- nothing to find

    def absent_thing(self) -> Thing:
        """A class that is not here and that nothing here could be called."""
        here = self.present | {near for label in self.present for near in WORLD.things[label].near}
        gone = sorted(WORLD.things.keys() - here)
        # Training asks every other time for what is akin to something here: there refusing is hard.
        if self.split == "train" and self.rng.random() < 0.5:
            akin = [sum(WORLD.kinship[label][other] for other in self.present) for label in gone]
            if any(akin):
                return WORLD.things[self.rng.choices(gone, akin)[0]]
        return WORLD.things[self.rng.choice(gone)]

    def make_absent(self) -> dict | None:
        rng, phrase = self.rng, None
        choice = rng.random()
        # Training asks less for names: what a need means is learned best where nothing that is here hints at it.
        named, never, described = (0.25, 0.43, 0.95) if self.split == "train" else (0.4, 0.55, 0.92)
        if choice < named:
            thing = self.absent_thing()
            command, answer = self.say("NAME", x=self.name(thing)), answer_without(thing.label, thing.many)
        elif choice < never:
            name = rng.choice(WORLD.never[self.split])
            command, answer = self.say("NAME", x=name), answer_without(name)
        elif choice < described:
            kinds = (("USE", WORLD.uses), ("NEED", WORLD.needs), ("NEED", WORLD.needs), ("PROPERTY", WORLD.properties))
            intention, phrases = rng.choice(kinds)
            options = self.missing(phrases.of.get(self.absent_thing().label, ())) if self.split == "train" else []
            options = options or self.missing(phrases)
            if not options:
                return None
            phrase = self.choose(options, there=False)
            # Of several that fit always the first: there is one right answer to learn.
            wanted = next(thing for label, thing in WORLD.things.items() if label in phrase.fits)
            command, answer = self.say(intention, x=phrase.text), answer_without(wanted.label, wanted.many)
        else:
            groups = [group for group in WORLD.groups if not (group.members | group.unsure) & self.present]
            if not groups:
                return None
            group = rng.choice(groups)
            command = self.whole(rng.choice(group.phrases if self.split == "train" else group.held))
            answer = answer_without(group.label, many=group.label.endswith("s"))
        explain = rng.random() < EXPLAINED / 2
        return self.conversation("absent", self.turn(command, [], answer, explain), phrase=phrase)

    def make_false_premise(self) -> dict | None:
        """The thing is there, but what is said of it is not true."""
        makers = [self.wrong_place, self.wrong_place, self.wrong_paint, self.wrong_property]
        if self.split == "train":  # few things have a colour
            makers.append(self.wrong_paint)
        turn = self.rng.choice(makers)()
        return turn and self.conversation("false_premise", turn)

    def wrong_place(self) -> dict | None:
        if len(self.single) < 2:
            return None
        a, b = self.rng.sample(self.single, 2)
        true = [direction for direction in DIRECTIONS if towards(a, b, self.scene, direction) == "yes"]
        if not true:
            return None
        relation = self.say(WORLD.opposites[true[0]])
        denied = answer_denying(a["class"], f"{relation} the {b['class']}", WORLD.things[a["class"]].many)
        return self.turn(self.whole(f"the {a['class']} {relation} the {b['class']}"), [], denied)

    def wrong_paint(self) -> dict | None:
        painted = [thing for thing in self.objects if thing.get("color")]
        if not painted:
            return None
        thing = self.rng.choice(painted)
        taken = {other["color"] for other in self.by_class[thing["class"]]}
        if None in taken:
            return None
        unclear = taken | {colour for name in taken for colour in WORLD.alike.get(name, ())}
        paint = self.rng.choice([name for name in COLOURS if name not in unclear])
        # The colour that is seen is said first: whether that is what was asked for can then be read off the words.
        name, many = self.all_of(thing["class"])
        denied = answer_denying(f"{' and '.join(sorted(taken))} {name}", paint, many)
        return self.turn(self.say("NAME", x=f"{paint} {thing['class']}"), [], denied)

    def wrong_property(self) -> dict | None:
        thing = self.rng.choice(self.objects)
        options = [p for p in WORLD.properties if not (p.fits | p.unsure) & {thing["class"], *self.present}]
        if not options:
            return None
        phrase = f"the {thing['class']} that {self.rng.choice(options).text}"
        name, many = self.all_of(thing["class"])
        return self.turn(self.whole(phrase), [], answer_denying(name, "like that", many))

    # -- two turns

    def make_followup(self) -> dict | None:
        makers = (
            self.then_another,
            self.then_what_goes_with_it,
            self.then_what_goes_with_it,
            self.then_the_other,
            self.then_the_other,
            self.then_around_it,
            self.then_instead,
            self.then_again,
        )
        turns = self.rng.choice(makers)()
        if turns is None:
            return None
        return self.conversation("followup", *turns)

    def first_turn(self, thing: dict) -> dict:
        """A plain request whose only target is ``thing``, a single one of its class."""
        label = thing["class"]
        phrases = [
            (intention, phrase)
            for intention, supply in (("USE", WORLD.uses), ("NEED", WORLD.needs))
            for phrase in self.fitting(supply.of.get(label, ()))
            if self.meant_by(phrase) == [thing]
        ]
        if phrases and self.rng.random() < 0.5:
            intention, phrase = self.rng.choice(phrases)
            return self.turn(self.say(intention, x=phrase.text), [thing], answer_with([thing]))
        return self.turn(self.say("NAME", x=self.name(WORLD.things[label])), [thing], answer_with([thing]))

    def then_another(self) -> tuple[dict, ...] | None:
        if len(self.single) < 2:
            return None
        a, b = self.rng.sample(self.single, 2)
        second = self.say("OTHER_NAME", x=self.name(WORLD.things[b["class"]]))
        return self.first_turn(a), self.turn(second, [b], answer_with([b]))

    def then_what_goes_with_it(self) -> tuple[dict, ...] | None:
        pairs = []
        for thing in self.single:
            partners = [o for label in WORLD.things[thing["class"]].goes_with for o in self.by_class.get(label, ())]
            if partners:
                pairs.append((thing, partners))
        if not pairs:
            return None
        thing, partners = self.rng.choice(pairs)
        return self.first_turn(thing), self.turn(self.say("GOES_WITH"), partners, answer_with(partners))

    def then_the_other(self) -> tuple[dict, ...] | None:
        chosen = self.place_pair()
        if chosen is None:
            return None
        phrase, thing = chosen
        other = next(o for o in self.by_class[thing["class"]] if o is not thing)
        first = self.turn(self.whole(phrase), [thing], answer_with([thing]))
        return first, self.turn(self.say("OTHER_ONE"), [other], answer_with([other]))

    def then_around_it(self) -> tuple[dict, ...] | None:
        if not self.single:
            return None
        anchor, direction = self.rng.choice(self.single), self.rng.choice(DIRECTIONS)
        thing = self.only([other for other in self.objects if other is not anchor], anchor, direction)
        if thing is None:
            return None
        second = self.say("AROUND_IT", r=self.say(direction))
        return self.first_turn(anchor), self.turn(second, [thing], answer_with([thing]))

    def then_instead(self) -> tuple[dict, ...] | None:
        if not self.single:
            return None
        gone, thing = self.absent_thing(), self.rng.choice(self.single)
        first = self.turn(self.say("NAME", x=self.name(gone)), [], answer_without(gone.label, gone.many))
        second = self.say("INSTEAD", x=self.name(WORLD.things[thing["class"]]))
        return first, self.turn(second, [thing], answer_with([thing]))

    def then_again(self) -> tuple[dict, ...] | None:
        if not self.single:
            return None
        thing = self.rng.choice(self.single)
        return self.first_turn(thing), self.turn(self.say("AGAIN"), [thing], answer_with([thing]))


def conversations_for(
    scene: dict,
    rng: random.Random,
    count: int,
    split: str,
    kinds: dict[str, float] | None = None,
    weight: Weight | None = None,
) -> list[dict]:
    """``count`` conversations about ``scene`` (a line of scenes.jsonl), fewer where the scene gives no more.

    split "train" uses the training phrasings; every other split only held-out phrasings, and for half of its needs
    needs that training never names. kinds: weight of each kind, KINDS where left out. weight: of a phrase of the table
    beside its like, given whether something here fits it; then a conversation that says one has it as ``phrase``.
    Deterministic in ``rng``. Raises ConfigError for a kind that there is not.
    """
    return Speaker(scene, rng, split, weight).talk(count, kinds)


def sentences(seed: int = 0) -> Iterator[str]:
    """Every piece of training text at least once (phrases in a phrasing, names, answers): to train a tokenizer on."""
    rng = random.Random(seed)

    def say(intention: str, **words: str) -> str:
        return rng.choice(getattr(phrasings, intention)["train"]).format(**words)

    for intention, phrases in (("USE", WORLD.uses), ("NEED", WORLD.needs), ("PROPERTY", WORLD.properties)):
        for phrase in phrases:
            yield phrase.text
            yield contract(phrase.text)
            yield say(intention, x=phrase.text)
    for thing in WORLD.things.values():
        one = [{"class": thing.label}]
        yield answer_with(one, because=thing.because)
        yield answer_with(one * 2)
        yield answer_without(thing.label, thing.many)
        for name in thing.names:
            yield say("NAME", x=name)
            yield say("OTHER_NAME", x=name)
        yield say("BOTH", n=thing.label, p=thing.plural)
    for group in WORLD.groups:
        yield from group.phrases
        yield group.because
        yield answer_without(group.label)
    for name in WORLD.never["train"]:
        yield say("NAME", x=name)
        yield answer_without(name)
    for wordings in phrasings.INTENTIONS.values():
        for text in wordings["train"]:
            things = rng.sample(sorted(WORLD.things), 3)
            text = text.format(x=things[0], a=things[1], b=things[2], n=things[0], p=things[0], o="object", r="left of")
            yield from (text, contract(text))
    yield from COLOURS
    yield from ("Please output segmentation mask.", "Please output segmentation mask and explain why.")
    for a, b in itertools.pairwise(sorted(WORLD.things)):
        yield answer_with([{"class": a}, {"class": b}])
