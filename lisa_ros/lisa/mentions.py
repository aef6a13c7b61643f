"""Names in an answer: which target each mask token and each reject token belongs to."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lisa_ros.engine.api import Region
from lisa_ros.lisa.family import Family
from lisa_ros.perception.masks import united_crop

CLOSEST = 0.85
"""Least similarity of a name to a target that is spelled differently, by ``difflib``; 1 is equal. Digits must agree."""


_MARKS = " ,.;:\n"


@dataclass(frozen=True, eq=False)
class Mention:
    """One mask token or reject token of an answer.

    Args:
        name: The name before the token; empty if there is none.
        rejected: Whether it is a reject token.
        region: The region of the mask; None if it was rejected or is over the limit of masks.
    """

    name: str
    rejected: bool = False
    region: Region | None = None


@dataclass(frozen=True)
class Found:
    """What an answer says about targets.

    Args:
        regions: One for each target with a mask, and those of other names, in the order of the answer.
        absent: Targets that were rejected, or whose mask is empty. Without targets, all names that were rejected.
    """

    regions: tuple[Region, ...]
    absent: tuple[str, ...]


def name_before(text: str, family: Family) -> str:
    """The name in the text of an answer between the previous mask or reject token and this one.

    Args:
        text: For example ``, the mask of red cup is``.
        family: Whose sentences are removed around the name.

    Returns:
        For example ``red cup``; empty if the text has no name, or the family does not name what it marks.
    """
    if not family.named_answers:
        return ""
    name = text.strip(_MARKS)
    for opening in sorted(_openings(family), key=len, reverse=True):
        rest = name[len(opening) :]
        if name.lower().startswith(opening.lower()) and not rest[:1].isalnum():
            name = rest.strip(_MARKS)
            break
    for form in family.named_answers:
        before, _, after = form.item.replace(family.mask_token, "").partition("{}")
        after = after.strip(" :")
        words = name.lower()
        if (before or after) and words.startswith(before) and words.endswith(f" {after}" if after else ""):
            return name[len(before) : len(name) - len(after)].strip(_MARKS)
    return name


def _openings(family: Family) -> set[str]:
    """What an answer may begin with, before the first name."""
    openings = {form.opening for form in family.named_answers} | set(family.openings)
    openings |= {answer.partition(family.mask_token)[0] for answer in family.answers}
    return {plain for opening in openings if (plain := opening.strip(_MARKS))}


def closest(name: str, targets: Sequence[str]) -> str | None:
    """The target that a name means: equal without white space and case, or else spelled nearly the same.

    Args:
        name: Of the answer.
        targets: Of the command.
    """
    plain = {_plain(target): target for target in reversed(targets)}
    digits = [char for char in _plain(name) if char.isdigit()]
    alike = [one for one in plain if [char for char in one if char.isdigit()] == digits]
    match = difflib.get_close_matches(_plain(name), alike, n=1, cutoff=CLOSEST)
    return plain[match[0]] if match else None


def found(mentions: Sequence[Mention], targets: Sequence[str], family: Family) -> Found:
    """Assign the mentions of an answer to the targets of a command.

    A mention belongs to the target that it names, and else to one spelled nearly the same that no other mention names.
    If there are as many mentions as targets, a family with ``ordered`` answers assigns the rest by their order. A
    mention that fits no target keeps its own name. Masks of one target, named or given twice, become one region.

    Args:
        mentions: Of the answer, in its order.
        targets: Of the command; may be empty.
        family: Of the model.
    """
    if not targets:
        regions = [one.region for one in mentions if one.region is not None]
        return Found(tuple(regions), tuple(dict.fromkeys(one.name for one in mentions if one.rejected and one.name)))
    names = _assigned(mentions, targets, family)
    of_name: dict[str | int, list[Region]] = {}
    for number, (name, one) in enumerate(zip(names, mentions, strict=True)):
        if one.region is not None:
            of_name.setdefault(name or number, []).append(one.region)  # without a name, each is an object of its own
    rejected = {name for name, one in zip(names, mentions, strict=True) if one.rejected}
    regions = [_united(name if isinstance(name, str) else "", ones) for name, ones in of_name.items()]
    empty = {region.phrase for region in regions if not region.mask.area}
    absent = [target for target in targets if target in empty or (target in rejected and target not in of_name)]
    return Found(tuple(regions), tuple(dict.fromkeys(absent)))


def _assigned(mentions: Sequence[Mention], targets: Sequence[str], family: Family) -> list[str]:
    """A name for each mention: a target, or what the answer says."""
    first = {_plain(target): target for target in reversed(targets)}  # equal names are one target
    names: list[str | None] = [first.get(_plain(one.name)) for one in mentions]
    free = [target for target in first.values() if target not in names]
    names = [closest(one.name, free) if name is None else name for name, one in zip(names, mentions, strict=True)]
    left = [target for target in targets if first[_plain(target)] not in names]
    if names.count(None) == len(left) and ((family.ordered and len(mentions) == len(targets)) or not _named(mentions)):
        names = [first[_plain(left.pop(0))] if name is None else name for name in names]
    return [one.name if name is None else name for name, one in zip(names, mentions, strict=True)]


def _named(mentions: Sequence[Mention]) -> bool:
    return any(one.name for one in mentions)


def _united(name: str, regions: Sequence[Region]) -> Region:
    """One region of all masks of a target. A region that is alone keeps its identity where its phrase is right."""
    if len(regions) == 1:
        return regions[0] if regions[0].phrase == name else replace(regions[0], phrase=name)
    score = max(region.score for region in regions)
    mask = united_crop([region.mask for region in regions], score)
    return Region(mask, score, name, tuple(span for region in regions for span in region.spans))


def _plain(name: str) -> str:
    return "".join(name.split()).lower().strip(".")
