"""What people know about things: ``world.yaml`` as values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from lisa_small.scenes.colours import COLOURS

DIRECTIONS = ("LEFT", "RIGHT", "FRONT", "BEHIND")
TABLE = Path(__file__).with_name("world.yaml")
FIELDS = ("names", "plural", "near", "paintable", "because", "with", "uses", "needs", "held", "is")  # of a thing

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In C where PyYAML has it: a tenth of the time for a table of this length."""


@dataclass(frozen=True)
class Phrase:
    """Words that single out things. fits: every class that fits. unsure: classes of which one could argue."""

    text: str
    fits: frozenset[str]
    unsure: frozenset[str]


class Phrases(tuple[Phrase, ...]):
    """Phrases in the order of the table."""

    @cached_property
    def of(self) -> dict[str, tuple[Phrase, ...]]:
        """Those that a class fits, by class: thousands need not be looked through for one."""
        found: dict[str, list[Phrase]] = {}
        for phrase in self:
            for label in phrase.fits:
                found.setdefault(label, []).append(phrase)
        return {label: tuple(phrases) for label, phrases in found.items()}


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
        """Whether one of it is spoken of as many: scissors, keys."""
        return self.plural == self.label or self.plural.startswith("pairs of ")


@dataclass(frozen=True)
class Group:
    """Things that one word covers. phrases, held: "all the tools". one: "tool", or empty."""

    label: str
    phrases: tuple[str, ...]
    held: tuple[str, ...]
    one: str
    because: str
    members: frozenset[str]
    unsure: frozenset[str]


@dataclass(frozen=True)
class World:
    """The whole table. uses, needs, held_needs, properties: phrases, each with all the classes that fit.

    never: names of things that are in no scene, by split. opposites: of each of DIRECTIONS. alike: of a colour those
    that it could be taken for.
    """

    things: dict[str, Thing]
    uses: Phrases
    needs: Phrases
    held_needs: Phrases
    properties: Phrases
    groups: tuple[Group, ...]
    never: dict[str, tuple[str, ...]]
    opposites: dict[str, str]
    alike: dict[str, tuple[str, ...]]

    @cached_property
    def kinship(self) -> dict[str, Counter[str]]:
        """Of each class the classes that trained phrases name with it, as fitting or arguable, and how many do."""
        kin: dict[str, Counter[str]] = {label: Counter() for label in self.things}
        for phrase in (*self.uses, *self.needs, *self.properties):
            for label in phrase.fits:
                kin[label].update((phrase.fits | phrase.unsure) - {label})
        return kin


def check(names: Collection[str], known: Collection[str], what: str) -> None:
    """Raises ValueError naming those that are not known."""
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"{TABLE.name}: there is no {what} {', '.join(unknown)}")


def classes(text: str, known: dict) -> frozenset[str]:
    """Comma separated classes. Raises ValueError for one that is not in the table."""
    names = frozenset(name.strip() for name in text.split(",") if name.strip())
    check(names, known, "class")
    return names


def collect(things: dict[str, dict], field: str) -> Phrases:
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
    """Read the table. Raises ValueError naming a class, a field, a place or a colour that there is not."""
    table = _LOADER(path.read_text(encoding="utf-8")).get_single_data()
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
