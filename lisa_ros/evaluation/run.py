"""A segmenter against examples: free generation, as a person meets it, and teacher-forced, as papers report it."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lisa_ros.engine.api import Conversation, Turn
from lisa_ros.evaluation.examples import Example, Picture, Question
from lisa_ros.evaluation.metrics import Overlap, overlap
from lisa_ros.lisa.prompt import build_prompt, phrase_command
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter, upsample_logits

MAX_ANSWER = 96
"""Tokens of an answer at most."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """How one example went, in numbers and words alone: a data set's masks would fill the memory.

    size: of the true targets, as Example.size. found: the answer has a ``[SEG]``. drawn: its masks have a pixel.
    to_mask_s: None without a mask. first: whether it was the first command on its frame, so that to_mask_s includes
    encoding. cut: the answer was longer than MAX_ANSWER tokens, and what it might have found behind these is not there.
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
    cut: bool = False

    @property
    def named(self) -> bool:
        """Whether something was found and every target's class is a word of what is said before the first ``[SEG]``."""
        said = self.answer.lower().partition("[seg]")[0]
        return self.found and all(re.search(rf"\b{re.escape(name)}(e?s)?\b", said) for name in self.question.names)


def evaluate(
    segmenter: Segmenter,
    pictures: Iterable[Picture],
    *,
    forced: bool = True,
    seed: int = 0,
    on_outcome: Callable[[Outcome, Picture, Example, NDArray[np.bool_]], None] | None = None,
) -> list[Outcome]:
    """Ask every example. seed: of the random-object baseline.

    on_outcome: called after each with its picture, what is true and the mask found, (H, W) bool: the union of the
    answer's.
    """
    rng, outcomes = random.Random(seed), []
    for picture in pictures:
        begun = time.perf_counter()
        encoded = segmenter.encode(picture.rgb)
        encode_s = time.perf_counter() - begun
        for number, example in enumerate(picture.examples):
            outcome, mask = _ask(segmenter, encoded, example, encode_s if number == 0 else 0.0, forced, rng)
            outcomes.append(outcome)
            if on_outcome is not None:
                on_outcome(outcome, picture, example, mask)
    return outcomes


def _ask(
    segmenter: Segmenter,
    encoded: EncodedImage,
    example: Example,
    encode_s: float,
    forced: bool,
    rng: random.Random,
) -> tuple[Outcome, NDArray[np.bool_]]:
    history, question = Conversation(), example.question
    for said in question.turns:
        command, verbatim = (said.verbatim, True) if said.verbatim is not None else (said.command, False)
        result = segmenter.segment(
            encoded, command, verbatim=verbatim, explain=said.explain, history=history, max_new_tokens=MAX_ANSWER
        )
    found = len(result.masks) > 0
    mask = np.logical_or.reduce(result.masks) if found else np.zeros(encoded.size, bool)
    # Only a conversation of one turn shows what the first command on a frame costs.
    timed = found and len(question.turns) == 1
    baselines = {} if question.absent else _baselines(example, rng)
    outcome = Outcome(
        question,
        example.size,
        result.answer,
        found,
        bool(mask.any()),
        overlap(mask, example.truth),
        overlap(forced_mask(segmenter, encoded, example), example.truth) if forced and not question.absent else None,
        {name: overlap(guess, example.truth) for name, guess in baselines.items()},
        encode_s + result.timings.first_mask_s if timed else None,
        encode_s > 0,
        result.answer_ids[-1:] != [segmenter.tokenizer.eos_id],
    )
    return outcome, mask


@torch.inference_mode()
def forced_mask(segmenter: Segmenter, encoded: EncodedImage, example: Example) -> NDArray[np.bool_]:
    """(H, W) bool: the union of the masks of the last answer, with the true answers put into the model's mouth."""
    turns: list[Turn] = []
    for said in example.question.turns:
        question = said.verbatim
        if question is None:
            question = phrase_command(
                said.command, segmenter.spec.questions, explain=said.explain, follow_up=bool(turns)
            )
        turns.append(Turn(question, said.answer))
    how = segmenter.template
    asked = build_prompt([*turns[:-1], Turn(turns[-1].question)], how, im_start_end=segmenter.spec.image_start_end)
    whole = build_prompt(turns, how, im_start_end=segmenter.spec.image_start_end)
    tokenizer, lisa = segmenter.tokenizer, segmenter.lisa
    ids = torch.tensor([tokenizer.encode_prompt(whole.text)], device=segmenter.device)
    hidden = lisa.read(lisa.embed_prompt(ids, encoded.tokens))  # (1, L, H)
    at = lisa.seg_positions(ids, segmenter.seg_id, encoded.tokens.shape[1])[0]
    at[: len(tokenizer.encode_prompt(asked.text)) + encoded.tokens.shape[1] - 2] = False  # earlier turns' masks
    if encoded.embedding is None:
        encoded.embedding = segmenter.embed(encoded.rgb)
    low_res = lisa.decode_masks(encoded.embedding, lisa.seg_projector(hidden[0, at]))
    logits = upsample_logits(low_res.float(), encoded.size, lisa.input_size)
    return (logits > 0).any(0).cpu().numpy()


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
