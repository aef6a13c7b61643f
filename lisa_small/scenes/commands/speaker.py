"""The person who speaks: one scene, one source of chance, and the words of a split."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from lisa_ros.data.scene_records import ConversationRecord, ObjectRecord, SceneRecord, TurnRecord
from lisa_small.scenes.commands.answers import answer_with
from lisa_small.scenes.phrasings import Intention, WordSplit, load_phrasings
from lisa_small.scenes.world import WORLD, Phrase, Phrases, Thing

Weight = Callable[[str, bool], float]
"""How often a phrase is asked, relative to others, above 0: (text, whether something in the scene fits it)."""

EXPLAINED = 0.2
"""Share of explained answers, among those that have one reason."""

MOST_CLASSES = 4
"""Classes in one answer, at most."""

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


def contract(text: str) -> str:
    """The text with contractions, as people speak: "I'm", "don't"."""
    for long, short in CONTRACTIONS:
        text = text.replace(long, short)
    return text


class Speaker:
    """Makes turns and conversations about one scene. All chance comes from ``rng``.

    Attributes:
        split: Which phrasings are used: those of training, or, for every other split of scenes, those of tests.
        by_class: The objects of each class in the scene.
        present: The classes in the scene.
        single: The objects that are the only ones of their class.
        pairs: The objects of the classes that have two.
    """

    def __init__(self, scene: SceneRecord, rng: random.Random, split: str, weight: Weight | None = None) -> None:
        """``weight`` is explained at conversations_for."""
        self.scene, self.rng, self.weight = scene, rng, weight
        self.camera = scene["camera"]
        self.split: WordSplit = "train" if split == "train" else "test"
        self.objects = scene["objects"]
        self.by_class: dict[str, list[ObjectRecord]] = {}
        for thing in self.objects:
            self.by_class.setdefault(thing["class"], []).append(thing)
        self.present = frozenset(self.by_class)
        self.single = [objects[0] for objects in self.by_class.values() if len(objects) == 1]
        self.pairs = [objects for objects in self.by_class.values() if len(objects) == 2]

    @property
    def trains(self) -> bool:
        """Whether the conversations are for training."""
        return self.split == "train"

    # -- words

    def say(self, intention: Intention, **fields: str) -> str:
        """One of the intention's phrasings, with its fields filled in."""
        return self.rng.choice(load_phrasings()[intention].of(self.split)).format(**fields)

    def request(self, phrase: str) -> str:
        """A request for what a phrase with its article describes ("the cup left of the book")."""
        return self.say("WHOLE", x=phrase)

    def name(self, thing: Thing) -> str:
        """The class's own name two times in three, else a synonym."""
        return thing.label if self.rng.random() < 0.67 else self.rng.choice(thing.names)

    def name_of(self, thing: ObjectRecord) -> str:
        """A name of an object's class."""
        return self.name(WORLD.things[thing["class"]])

    def all_of(self, label: str) -> tuple[str, bool]:
        """The name for all objects of a class in the scene, and whether it takes a plural verb."""
        thing, several = WORLD.things[label], len(self.by_class[label]) > 1
        return (thing.plural if several else label), several or thing.many

    def colloquial(self, command: str) -> str:
        """The command as people type or say it: sometimes polite, without capitals or without the full stop."""
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

    # -- targets

    def with_target(self, phrases: Iterable[Phrase]) -> list[Phrase]:
        """The phrases that something in the scene fits, where nothing in it is arguable."""
        return [phrase for phrase in phrases if phrase.fits & self.present and not phrase.unsure & self.present]

    def without_target(self, phrases: Iterable[Phrase]) -> list[Phrase]:
        """The phrases that nothing in the scene fits, not even arguably."""
        return [phrase for phrase in phrases if not (phrase.fits | phrase.unsure) & self.present]

    def targets_of(self, phrase: Phrase) -> list[ObjectRecord]:
        """All objects that fit a phrase."""
        return [thing for thing in self.objects if thing["class"] in phrase.fits]

    def choose(self, phrases: Sequence[Phrase], there: bool) -> Phrase:
        """One of the phrases, by weight. there: whether something in the scene fits them."""
        if self.weight is None:
            return self.rng.choice(phrases)
        return self.rng.choices(phrases, [self.weight(phrase.text, there) for phrase in phrases])[0]

    def absent_thing(self) -> Thing:
        """A class that is not in the scene and that nothing in the scene could be called."""
        here = self.present | {near for label in self.present for near in WORLD.things[label].near}
        gone = sorted(WORLD.things.keys() - here)
        # Training asks every other time for something that is akin to what is here, because that is hard to reject.
        if self.trains and self.rng.random() < 0.5:
            akin = [sum(WORLD.kinship[label][other] for other in self.present) for label in gone]
            if any(akin):
                return WORLD.things[self.rng.choices(gone, akin)[0]]
        return WORLD.things[self.rng.choice(gone)]

    # -- turns and conversations

    def turn(self, command: str, objects: Iterable[ObjectRecord], answer: str, explain: bool = False) -> TurnRecord:
        """A turn with these targets."""
        targets = sorted(thing["id"] for thing in objects)
        return {"command": self.colloquial(command), "targets": targets, "answer": answer, "explain": explain}

    def plain_turn(self, command: str, objects: Sequence[ObjectRecord]) -> TurnRecord:
        """A turn with these targets, whose answer names their classes and gives no reason."""
        return self.turn(command, objects, answer_with([thing["class"] for thing in objects]))

    def painted_turn(self, command: str, thing: ObjectRecord) -> TurnRecord:
        """A turn with one target, whose answer says its colour too."""
        return self.turn(command, [thing], answer_with([thing["class"]], paint=thing["color"] or ""))

    def explained_turn(self, command: str, objects: Sequence[ObjectRecord], because: str = "") -> TurnRecord | None:
        """A turn with these targets; its answer sometimes gives a reason, by default that of the only target's class.

        Returns:
            None where the answer would name no class or too many.
        """
        labels = [thing["class"] for thing in objects]
        if not 1 <= len(set(labels)) <= MOST_CLASSES:
            return None
        if not because and len(objects) == 1:
            because = WORLD.things[labels[0]].because
        explain = bool(because) and self.rng.random() < EXPLAINED
        return self.turn(command, objects, answer_with(labels, because=because if explain else ""), explain)

    def conversation(
        self, kind: str, *turns: TurnRecord, held_out_content: bool = False, phrase: Phrase | None = None
    ) -> ConversationRecord:
        """A conversation of these turns. phrase: the phrase of the world table in the first of them."""
        record: ConversationRecord = {
            "kind": kind,
            "held_out": not self.trains,
            "held_out_content": held_out_content,
            "turns": list(turns),
        }
        if phrase is not None and self.weight is not None:
            record["phrase"] = phrase.text
        return record

    def phrase_conversation(
        self, kind: str, intention: Intention, phrases: Phrases, held_out_content: bool = False
    ) -> ConversationRecord | None:
        """A request for something by one of the phrases that it fits.

        Returns:
            None where the object that was drawn fits no phrase.
        """
        # First the target, then one of its phrases: things with many phrases are not asked for more often.
        label = self.rng.choice(sorted(self.present))
        options = self.with_target(phrases.of.get(label, ()))
        if not options:
            return None
        phrase = self.choose(options, there=True)
        turn = self.explained_turn(self.say(intention, x=phrase.text), self.targets_of(phrase))
        return turn and self.conversation(kind, turn, held_out_content=held_out_content, phrase=phrase)
