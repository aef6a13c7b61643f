"""Questions about targets and their answers, as a family of models is trained with them.

A data set knows targets: names with their masks. What is asked about them and how it is answered follows from the
family: one question for each target (LISA, SESAME, READ, CoReS), one for all (GSVA), or a list of classes (LaSagnA).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lisa_ros.data.coco import Masks
from lisa_ros.data.picture import BadExample
from lisa_ros.lisa.family import FAMILIES, Family
from lisa_ros.lisa.prompt import NAME_SEPARATOR
from lisa_ros.training import templates
from lisa_ros.training.datasets.example import Dialogue, single


@dataclass(frozen=True, eq=False)
class Target:
    """Something to ask for.

    Args:
        name: A noun phrase, or a sentence that describes it.
        mask: (H, W) uint8 of 0 and 1; None where it is not in the picture.
        is_sentence: Whether ``name`` is a sentence.
        denial: The data set's own answer where it is not in the picture; empty: one of ours.
    """

    name: str
    mask: Masks | None
    is_sentence: bool = False
    denial: str = ""


_TOGETHER = (
    "Can you segment {} in this image?",
    "Please segment {} in this image.",
    "What are {} in this image? Please respond with segmentation masks.",
    "What are {} in this image? Please output segmentation masks.",
)
"""GSVA's questions."""

_PLAIN_FORM = FAMILIES["gsva"].named_answers[1]
"""The shortest."""

_WHETHER = (
    "Is there {} in this image? If so, show its mask. If not, say so, and say what is there instead.",
    "Please look for {}. Give its segmentation map if you see it, and tell me if it is not there.",
    "Could you mark {} in the picture? Where it is missing, answer that it is, and name something like it.",
)
"""For a model that learns to deny what is not there, beside the family's own question."""


class Phrasing:
    """How one family asks and answers.

    Args:
        family: The family.
        plain: Always the same question and answer about several targets: a small model learns one sooner than all.
    """

    def __init__(self, family: Family = FAMILIES["lisa"], *, plain: bool = False) -> None:
        self.family = family
        self._plain = plain
        own = family.questions.phrase
        self._asks_whether = family.name == "sesame"
        self._whether = (own, *_WHETHER)

    @property
    def together(self) -> bool:
        """Whether one question is about all targets of a picture."""
        return bool(self.family.questions.several) and not self.lists_classes

    @property
    def lists_classes(self) -> bool:
        """Whether classes are asked for as a list."""
        return bool(self.family.list_tokens)

    def dialogues(
        self, targets: Sequence[Target], size: tuple[int, int], rng: random.Random, between: str = NAME_SEPARATOR
    ) -> tuple[Dialogue, ...]:
        """Conversations about the targets of a picture of ``size`` (H, W).

        Args:
            targets: At least one.
            size: Of the picture.
            rng: The source of all chance.
            between: Separator of the items of an answer about several.
        """
        if not self.together:
            return tuple(self.single(target, size, rng) for target in targets)
        phrases = [target for target in targets if not target.is_sentence]
        alone = [self.single(target, size, rng) for target in targets if target.is_sentence]
        return (*([self.several(phrases, size, rng, between)] if phrases else []), *alone)

    def single(self, target: Target, size: tuple[int, int], rng: random.Random) -> Dialogue:
        """One question for one target."""
        if self.together and not target.is_sentence:
            return self.several([target], size, rng)
        question = self._question(target, rng)
        if target.mask is None:
            answer = target.denial or templates.refuse(target.name, target.is_sentence, rng)
            return single(question, answer, [], size, self.family)
        return single(question, self.answer(rng), [target.mask], size, self.family)

    def several(
        self, targets: Sequence[Target], size: tuple[int, int], rng: random.Random, between: str = NAME_SEPARATOR
    ) -> Dialogue:
        """One question for several targets; the answer names each with its mask or its absence."""
        names = [_named(target.name) for target in targets]
        asked = self.family.questions.several if self._plain else rng.choice(_TOGETHER)
        question = asked.format(NAME_SEPARATOR.join(names).lower())
        form = _PLAIN_FORM if self._plain else rng.choice(self.family.named_answers)
        items = [
            self._verdict(form.item, target.mask is not None).format(name)
            for target, name in zip(targets, names, strict=True)
        ]
        answer = f"{form.opening} {between.join(items)}{self.family.closing}".strip()
        return self._checked(question, answer, targets, size)

    def classes(self, targets: Sequence[Target], size: tuple[int, int], rng: random.Random) -> Dialogue:
        """One list of classes, answered in an order of its own."""
        asked, answered = list(targets), list(targets)
        rng.shuffle(asked)
        rng.shuffle(answered)
        names = NAME_SEPARATOR.join(_named(target.name) for target in asked).lower()
        item = self.family.named_answers[0].item
        answer = self.family.separator.join(
            self._verdict(item, target.mask is not None).format(_named(target.name).lower()) for target in answered
        )
        return self._checked(self.family.questions.several.format(names), answer, answered, size)

    def answer(self, rng: random.Random) -> str:
        """An answer with one mask and without a name."""
        return rng.choice(self.family.answers)

    def _question(self, target: Target, rng: random.Random) -> str:
        if not self._asks_whether:
            return templates.ask(target.name, target.is_sentence, rng)
        if target.is_sentence:
            return self.family.questions.sentence.format(target.name.strip())
        return rng.choice(self._whether).format(_named(target.name).lower())

    def _verdict(self, item: str, present: bool) -> str:
        return item if present else item.replace(self.family.mask_token, self.family.reject_token)

    def _checked(self, question: str, answer: str, targets: Sequence[Target], size: tuple[int, int]) -> Dialogue:
        family, expected = self.family, sum(target.mask is None for target in targets)
        if answer.count(family.reject_token) != expected:
            raise BadExample(f"a name in {answer!r:.80} holds {family.reject_token}, a token of {family.name}")
        return single(question, answer, [target.mask for target in targets if target.mask is not None], size, family)


def _named(name: str) -> str:
    """A name without white space and full stops around it."""
    return name.strip().strip(".").strip()


LISA = Phrasing()
"""LISA's."""
