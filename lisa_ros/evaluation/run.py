"""Ask an engine every example of a data set: freely, as a person would, and teacher-forced, as papers report it."""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import TEACHER_FORCED, Answer, Ask, Conversation, EngineInfo, ProposesMasks
from lisa_ros.engine.patience import patiently
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.evaluation.bound import best_set
from lisa_ros.evaluation.examples import Example, ExampleTurn, Picture, Question
from lisa_ros.evaluation.metrics import Overlap, overlap
from lisa_ros.evaluation.reliability import ScoredMask, score_mask
from lisa_ros.perception.masks import union_image
from lisa_ros.perception.packed_crops import packed

MAX_ANSWER = 96
"""Tokens of one answer at most."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of one example, in numbers and words only: the masks of a whole data set would fill the memory.

    Args:
        question: What was asked.
        size: Of the true targets, as ``Example.size``.
        answer: The answer's text.
        found: The answer has a region.
        drawn: Its masks have a pixel.
        free: Overlap of the answer's masks with the truth.
        forced: The same with the true answer given; None where it was not asked.
        baselines: Overlap of each baseline.
        to_mask_s: Seconds to the first mask; None without one, and in a conversation of several turns.
        first: First question about its picture: ``to_mask_s`` includes encoding.
        named: A region exists, and the text up to the first mention of it names every target's class.
        cut: The answer was cut off at ``MAX_ANSWER`` tokens; None where the engine does not say how long it was.
        bound: Overlap of the best set of proposals; None without a target, and for an engine that proposes no masks.
        masks: Those of the answer that have pixels, each with its score and what it marks.
    """

    question: Question
    size: str
    answer: str
    found: bool
    drawn: bool
    free: Overlap
    forced: Overlap | None
    baselines: dict[str, Overlap]
    to_mask_s: float | None
    first: bool
    named: bool = False
    cut: bool | None = None
    masks: tuple[ScoredMask, ...] = ()
    bound: Overlap | None = None


OnOutcome = Callable[[Outcome, Picture, Example, NDArray[np.bool_]], None]


@dataclass(frozen=True, eq=False)
class PictureResult:
    """The outcomes of one picture.

    Args:
        outcomes: One for each of its examples.
        masks: Union (H, W) bool of the answer's masks, for each example; empty where they are not wanted.
        info: Of the engine that was asked.
    """

    outcomes: list[Outcome]
    masks: list[NDArray[np.bool_]]
    info: EngineInfo


@dataclass(frozen=True)
class AskPicture:
    """Asks all examples of a picture. It can be sent to another process.

    Args:
        forced: Measure teacher-forced answers too, where the engine is capable of it.
        seed: Of the random-object baseline.
        masks: Return the answers' masks.
    """

    forced: bool = True
    seed: int = 0
    masks: bool = True

    def __call__(self, engine: SupportedEngine, picture: Picture) -> PictureResult:
        rng = random.Random(f"{self.seed} {picture.name}")  # the same in any order of the pictures
        forced = self.forced and TEACHER_FORCED in engine.info.capabilities
        begun = time.perf_counter()
        encoded = engine.encode(picture.rgb)
        encode_s = time.perf_counter() - begun
        asked = [
            _ask(engine, encoded, example, 0.0 if number else encode_s, forced, rng)
            for number, example in enumerate(picture.examples)
        ]
        masks = [mask for _, mask in asked] if self.masks else []
        return PictureResult([outcome for outcome, _ in asked], masks, engine.info)


def evaluate(
    engine: SupportedEngine,
    pictures: Iterable[Picture],
    *,
    forced: bool = True,
    seed: int = 0,
    on_outcome: OnOutcome | None = None,
) -> list[Outcome]:
    """Ask every example.

    Args:
        engine: Is asked.
        pictures: With their examples.
        forced: As in :class:`AskPicture`.
        seed: As in :class:`AskPicture`.
        on_outcome: As in :func:`collect`.
    """
    ask = AskPicture(forced, seed, on_outcome is not None)
    return collect(ask_in_order([engine], ask, pictures), on_outcome)


def collect(results: Iterable[tuple[Picture, PictureResult]], on_outcome: OnOutcome | None = None) -> list[Outcome]:
    """The outcomes of all pictures.

    Args:
        results: Of each picture, in order.
        on_outcome: Called after each example with its outcome, picture, truth and the union (H, W) bool of the
            answer's masks.
    """
    outcomes = []
    for picture, result in results:
        outcomes += result.outcomes
        if on_outcome is not None:
            for outcome, example, mask in zip(result.outcomes, picture.examples, result.masks, strict=True):
                on_outcome(outcome, picture, example, mask)
    return outcomes


def ask_in_order(
    engines: Sequence[SupportedEngine], ask: AskPicture, pictures: Iterable[Picture]
) -> Iterator[tuple[Picture, PictureResult]]:
    """Each picture and its result, in order.

    Args:
        engines: One; or the same one several times, for as many pictures at once: clients of one server with replicas.
            The outcomes are the same, but for the times.
        ask: What is asked.
        pictures: Some are worked on ahead, where there are several engines.
    """
    if len(engines) == 1:
        yield from ((picture, ask(engines[0], picture)) for picture in pictures)
        return
    idle: SimpleQueue[SupportedEngine] = SimpleQueue()
    for each in engines:
        idle.put(each)

    def work(picture: Picture) -> PictureResult:
        engine = idle.get()
        try:
            return ask(engine, picture)
        finally:
            idle.put(engine)

    begun: deque[tuple[Picture, Future[PictureResult]]] = deque()
    with ThreadPoolExecutor(len(engines)) as pool:
        try:
            for picture in pictures:
                begun.append((picture, pool.submit(work, picture)))
                if len(begun) > 2 * len(engines):  # pictures and masks of a whole data set would fill the memory
                    first, future = begun.popleft()
                    yield first, future.result()
            yield from ((picture, future.result()) for picture, future in begun)
        finally:
            pool.shutdown(cancel_futures=True)


def _ask(
    engine: SupportedEngine,
    encoded: Encoded,
    example: Example,
    encode_s: float,
    forced: bool,
    rng: random.Random,
) -> tuple[Outcome, NDArray[np.bool_]]:
    history, question = Conversation(), example.question
    for turn in question.turns:
        begun = time.perf_counter()
        answer = patiently(partial(engine.ask, encoded, _ask_of(turn, history), details=True))
        asked_s = time.perf_counter() - begun
    found = len(answer.regions) > 0
    mask = union_image([region.mask for region in answer.regions], example.truth.shape) > 0
    # Only a conversation of one turn shows what the first command on a frame costs.
    timed = found and len(question.turns) == 1
    baselines = {} if question.absent else _baselines(example, rng)
    outcome = Outcome(
        question,
        example.size,
        answer.text,
        found,
        bool(mask.any()),
        overlap(mask, example.truth),
        overlap(forced_mask(engine, encoded, example), example.truth) if forced and not question.absent else None,
        {name: overlap(guess, example.truth) for name, guess in baselines.items()},
        encode_s + (answer.timings.first_mask_s or asked_s) if timed else None,
        encode_s > 0,
        found and names_all(text_to_region(answer), question.names),
        _is_cut(answer),
        tuple(score_mask(region, example.truth, example.objects) for region in answer.regions if region.mask.area),
        None if question.absent else _bound(engine, encoded, example),
    )
    return outcome, mask


def _bound(engine: SupportedEngine, encoded: Encoded, example: Example) -> Overlap | None:
    if not isinstance(engine.engine, ProposesMasks):
        return None
    return best_set(packed(engine.proposals(encoded)), example.truth)[1]


def _ask_of(turn: ExampleTurn, history: Conversation | None = None) -> Ask:
    return Ask(
        turn.command if turn.verbatim is None else turn.verbatim,
        explain=turn.explain,
        verbatim=turn.verbatim is not None,
        history=history,
        max_new_tokens=MAX_ANSWER,
    )


def forced_mask(engine: SupportedEngine, encoded: Encoded, example: Example) -> NDArray[np.bool_]:
    """Union (H, W) bool of the masks of the last answer, where every answer is the true one.

    Raises CommandError where the engine has no teacher-forced answers.
    """
    turns = example.question.turns
    asks, answers = [_ask_of(turn) for turn in turns], [turn.answer for turn in turns]
    return patiently(partial(engine.teacher_forced, encoded, asks, answers))


def text_to_region(answer: Answer) -> str:
    """The answer's text up to the first mention of its first region, mention included; without one the whole text."""
    spans = [region.span for region in answer.regions[:1] if region.span is not None]
    return answer.text[: spans[0][1]] if spans else answer.text


def names_all(text: str, names: Iterable[str]) -> bool:
    """Whether every one of ``names`` is a word of ``text``, singular or plural, in any case."""
    return all(re.search(rf"\b{re.escape(name)}(e?s)?\b", text.lower()) for name in names)


def _is_cut(answer: Answer) -> bool | None:
    ids = (answer.details or {}).get("answer_ids")
    return None if ids is None else len(ids) >= MAX_ANSWER


def _baselines(example: Example, rng: random.Random) -> dict[str, NDArray[np.bool_]]:
    empty = np.zeros(example.truth.shape, bool)
    if not example.objects:
        return {"empty": empty, "whole picture": ~empty}
    return {
        "empty": empty,
        "all objects": np.logical_or.reduce(example.objects),
        "random object": rng.choice(example.objects),
        "largest object": max(example.objects, key=np.count_nonzero),
    }
