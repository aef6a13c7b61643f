"""All words of training as text, to train a tokenizer on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from lisa_small.scenes.colours import COLOURS
from lisa_small.scenes.commands.answers import answer_with, answer_without
from lisa_small.scenes.commands.speaker import contract
from lisa_small.scenes.phrasings import Intention, load_phrasings
from lisa_small.scenes.world import WORLD, Phrases


def sentences(seed: int = 0) -> Iterator[str]:
    """Every text of training at least once: phrases within a phrasing, names, answers."""
    rng, phrasings = random.Random(seed), load_phrasings()

    def say(intention: Intention, **fields: str) -> str:
        return rng.choice(phrasings[intention].train).format(**fields)

    supplies: tuple[tuple[Intention, Phrases], ...] = (
        ("USE", WORLD.uses),
        ("NEED", WORLD.needs),
        ("PROPERTY", WORLD.properties),
    )
    for intention, phrases in supplies:
        for phrase in phrases:
            yield phrase.text
            yield contract(phrase.text)
            yield say(intention, x=phrase.text)
    for thing in WORLD.things.values():
        yield answer_with([thing.label], because=thing.because)
        yield answer_with([thing.label] * 2)
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
    for entry in phrasings.values():
        for text in entry.train:
            a, b, c = rng.sample(sorted(WORLD.things), 3)
            text = text.format(x=a, a=b, b=c, n=a, p=a, o="object", r="left of")
            yield from (text, contract(text))
    yield from COLOURS
    yield from ("Please output segmentation mask.", "Please output segmentation mask and explain why.")
    for a, b in itertools.pairwise(sorted(WORLD.things)):
        yield answer_with([a, b])
