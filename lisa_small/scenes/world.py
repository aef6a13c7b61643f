"""World knowledge about the classes: ``world.yaml`` as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lisa_small.scenes.colours import COLOURS
from lisa_small.scenes.phrasings import DIRECTIONS, Direction
from lisa_small.scenes.tables import read_table

TABLE = Path(__file__).with_name("world.yaml")
FIELDS = ("names", "plural", "near", "paintable", "because", "with", "uses", "needs", "held", "is")  # of a thing


@dataclass(frozen=True)
class Phrase:
    """Words that describe things. fits: every class that fits. unsure: the classes that arguably fit."""

    text: str
    fits: frozenset[str]
    unsure: frozenset[str]


class Phrases(tuple[Phrase, ...]):
    """Phrases in the order of the table."""

    @cached_property
    def of(self) -> dict[str, tuple[Phrase, ...]]:
        """The phrases that each class fits, by class. Computed once: there are thousands of phrases."""
        by_class: dict[str, list[Phrase]] = {}
        for phrase in self:
            for label in phrase.fits:
                by_class.setdefault(label, []).append(phrase)
        return {label: tuple(phrases) for label, phrases in by_class.items()}


@dataclass(frozen=True)
class Thing:
    """One class of objects; the fields are those of ``world.yaml``."""

    label: str
    names: tuple[str, ...]
    plural: str
    near: tuple[str, ...]
    paintable: bool
    because: str
    goes_with: tuple[str, ...]

    @property
    def many(self) -> bool:
        """Whether one of it takes a plural verb: scissors, keys."""
        return self.plural == self.label or self.plural.startswith("pairs of ")


@dataclass(frozen=True)
class Group:
    """Things that one word covers.

    Attributes:
        phrases: "all the tools"; held are those kept for tests.
        one: The word for a single member ("tool"), or empty.
        because: The reason in an explained answer.
        members: The classes of the group; unsure are those that arguably belong to it.
    """

    label: str
    phrases: tuple[str, ...]
    held: tuple[str, ...]
    one: str
    because: str
    members: frozenset[str]
    unsure: frozenset[str]


@dataclass(frozen=True)
class World:
    """The whole table.

    Attributes:
        things: Every class, by its label.
        uses: Phrases, as needs and properties, each with all the classes that fit it.
        held_needs: Needs that are kept for tests.
        never: Names of things that are in no scene, by split.
        opposites: The opposite of each direction.
        alike: For a colour, the colours that it could be mistaken for.
    """

    things: dict[str, Thing]
    uses: Phrases
    needs: Phrases
    held_needs: Phrases
    properties: Phrases
    groups: tuple[Group, ...]
    never: dict[str, tuple[str, ...]]
    opposites: dict[Direction, Direction]
    alike: dict[str, tuple[str, ...]]

    @cached_property
    def kinship(self) -> dict[str, Counter[str]]:
        """For each class, how many phrases of training name another class with it, as fitting or as arguable."""
        kin: dict[str, Counter[str]] = {label: Counter() for label in self.things}
        for phrase in (*self.uses, *self.needs, *self.properties):
            for label in phrase.fits:
                kin[label].update((phrase.fits | phrase.unsure) - {label})
        return kin


def check(names: Collection[str], known: Collection[str], kind: str) -> None:
    """Raises ValueError with the names that are not known. kind: what they are names of, for the message."""
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{TABLE.name}: there is no {kind} {', '.join(unknown)}")


def classes(text: str, known: Collection[str]) -> frozenset[str]:
    """Comma separated classes. Raises ValueError for one that is not in the table."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    check(names, known, "class")
    return names


def collect(things: Mapping[str, Mapping[str, Any]], field: str) -> Phrases:
    """All phrases of one field; equal texts of several classes become one phrase that fits them all."""
    fits: dict[str, frozenset[str]] = {}
    unsure: dict[str, frozenset[str]] = {}
    for label, fields in things.items():
        for line in fields.get(field, ()):
            rest, _, doubtful = line.partition(" ? ")
            text, _, others = rest.partition(" @ ")
            text = text.strip()
            fits[text] = fits.get(text, frozenset()) | {label} | classes(others, things)
            unsure[text] = unsure.get(text, frozenset()) | classes(doubtful, things)
    return Phrases(Phrase(text, fits[text], unsure[text] - fits[text]) for text in fits)


def load_world(path: Path = TABLE) -> World:
    """Reads the table.

    Raises:
        ValueError: A class, field, place or colour is unknown; the message names it.
    """
    table = read_table(path)
    entries = table["things"]
    things = {}
    for label, fields in entries.items():
        check(fields, FIELDS, "field of a thing")
        near, goes_with = fields.get("near", []), fields.get("with", [])
        classes(",".join([*near, *goes_with]), entries)
        things[label] = Thing(
            label=label,
            names=tuple(fields["names"]),
            plural=fields.get("plural", label + "s"),
            near=tuple(near),
            paintable=fields.get("paintable", False),
            because=fields["because"],
            goes_with=tuple(goes_with),
        )
    groups = tuple(
        Group(
            label=label,
            phrases=tuple(fields["phrases"]),
            held=tuple(fields["held"]),
            one=fields.get("one", ""),
            because=fields["because"],
            members=classes(",".join(fields["members"]), entries),
            unsure=classes(",".join(fields.get("unsure", [])), entries),
        )
        for label, fields in table["groups"].items()
    )
    never = {split: tuple(names) for split, names in table["never"].items()}
    opposites = dict(table["opposites"])
    check([*opposites, *opposites.values()], DIRECTIONS, "place")
    if missing := sorted(set(DIRECTIONS) - opposites.keys()):
        raise ValueError(f"{', '.join(missing)}: no opposite in {TABLE.name}")
    alike = {name: tuple(others) for name, others in table["alike"].items()}
    check(alike.keys() | {other for others in alike.values() for other in others}, COLOURS, "colour")
    uses, needs, held_needs, properties = (collect(entries, field) for field in ("uses", "needs", "held", "is"))
    return World(things, uses, needs, held_needs, properties, groups, never, opposites, alike)


WORLD = load_world()
CLASSES = sorted(WORLD.things)
