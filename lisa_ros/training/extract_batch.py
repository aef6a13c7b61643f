"""From examples to what a step of an extractive model reads: candidates, ids, labels.

P pixels of a mask at low resolution, N candidates of a picture.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.data.picture import BadExample
from lisa_ros.engine.api import Proposals, crop_mask
from lisa_ros.extractive.reader import REQUEST, LlavaReader
from lisa_ros.extractive.words import MENTION, Message
from lisa_ros.lisa.tokenizer import IMAGE_ID
from lisa_ros.training import extract_texts
from lisa_ros.training.choices import Plan, best_plan
from lisa_ros.training.datasets.example import Dialogue, Example
from lisa_ros.training.extract_objective import ExtractBatch
from lisa_ros.training.losses import IGNORE
from lisa_ros.training.templates import SEG

STRIDE = 4
"""Every fourth pixel of masks in each direction is enough for their IoU."""
SAME = 0.95
"""IoU from which a proposal is the true mask."""
_LISAS_REQUEST = re.compile(r"\s*(Please (respond with|output) segmentation mask.*)$")


@dataclass(frozen=True, eq=False)
class Sample:
    """One picture with one conversation.

    Args:
        pixels: (3, size, size) of the vision tower.
        embeddings: (N, D) of the candidates.
        positives: The first so many candidates are true masks.
        dialogue: Its ``[SEG]`` are masks.
        plans: Of each ``[SEG]``; None in parity mode.
    """

    pixels: Tensor
    embeddings: Tensor
    positives: int
    dialogue: Dialogue
    plans: tuple[Plan, ...] | None


class Sampler:
    """Makes samples and batches.

    Args:
        reader: Of the model; its weights are not changed.
        proposals: Folder of further candidates, or None.
        parity: The reference's order of candidates: true ones first.
    """

    def __init__(self, reader: LlavaReader, proposals: Path | None, *, parity: bool):
        self._reader, self._proposals, self._parity = reader, proposals, parity

    def sample(self, example: Example, rng: random.Random) -> Sample:
        """One of the picture's conversations, with candidates.

        Raises:
            BadExample: No conversation can be used.
        """
        dialogues = [one for one in example.dialogues if len(one.masks) or not self._parity]
        if not dialogues:
            raise BadExample(f"{example.name}: no conversation has a mask")
        dialogue = rng.choice(dialogues)
        true = list(dialogue.masks.astype(bool))
        others = [mask for other in example.dialogues if other is not dialogue for mask in other.masks.astype(bool)]
        others += self._further(example)
        masks = _distinct([*true, *others], keep=len(true))
        if not masks:
            masks = [np.ones(example.rgb.shape[:2], bool)]
        order = list(range(len(masks)))
        if not self._parity:
            rng.shuffle(order)
        masks = [masks[at] for at in order]
        low = [crop_mask(mask[::STRIDE, ::STRIDE]) for mask in masks]
        plans = tuple(best_plan(low, mask[::STRIDE, ::STRIDE]) for mask in true)
        if any(not plan.sequence for plan in plans) and not self._parity:
            raise BadExample(f"{example.name}: no candidates cover a mask that is a few pixels wide")
        proposals = Proposals(masks=np.stack(masks))
        with torch.no_grad():
            embeddings = self._reader.embeddings(example.rgb, proposals)
        return Sample(
            self._reader.pixels(example.rgb)[0].cpu(),
            embeddings.cpu(),
            len(true),
            dialogue,
            None if self._parity else plans,
        )

    def _further(self, example: Example) -> list[NDArray[np.bool_]]:
        """Proposals of a file. Raises BadExample where it cannot be used."""
        if self._proposals is None:
            return []
        file = self._proposals / f"{Path(example.name).stem}.npz"
        if not file.is_file():
            return []
        try:
            with np.load(file) as arrays:
                masks = arrays["masks"]
        except (OSError, ValueError, KeyError) as error:
            raise BadExample(f"{file} has no proposals: {error!r}") from error
        if masks.ndim != 3 or masks.shape[1:] != example.rgb.shape[:2]:
            raise BadExample(f"{file} has masks {masks.shape}; the picture has {example.rgb.shape[:2]} pixels")
        return list(masks.astype(bool))

    # --- repaired ---

    def join(self, samples: Sequence[Sample], unheard: float, rng: random.Random) -> ExtractBatch:
        """One batch, with soft targets. unheard: share of ids before answers that are made unknown."""
        words, counts = self._reader.words, [len(sample.embeddings) for sample in samples]
        total = sum(counts)
        ids, labels, soft = [], [], []
        for number, sample in enumerate(samples):
            begin = sum(counts[:number])
            row, trained, targets = self._conversation(sample, begin, total)
            heard = [
                words.unknown_id if not keep and token >= 0 and rng.random() < unheard else token
                for token, keep in zip(row, trained, strict=True)
            ]
            ids.append(heard[:-1])
            labels.append([token if keep else IGNORE for token, keep in zip(row[1:], trained[1:], strict=True)])
            soft.append(targets[1:])
        longest = max(map(len, ids))
        shares = torch.zeros(len(ids), longest, total)
        for number, targets in enumerate(soft):
            for at, target in enumerate(targets, longest - len(targets)):
                if target is not None:
                    begin, share = target
                    shares[number, at, begin : begin + len(share)] = torch.from_numpy(share)
        return ExtractBatch(
            pixels=torch.stack([sample.pixels for sample in samples]),
            embeddings=torch.cat([sample.embeddings for sample in samples]),
            ids=_left_padded(ids, longest, words.pad_id),
            attended=_left_padded([[1] * len(row) for row in ids], longest, 0) > 0,
            labels=_left_padded(labels, longest, IGNORE),
            owner=torch.tensor([number for number, count in enumerate(counts) for _ in range(count)]),
            soft=shares,
        )

    def _conversation(
        self, sample: Sample, begin: int, total: int
    ) -> tuple[list[int], list[bool], list[tuple[int, NDArray[np.float32]] | None]]:
        """Ids of the whole conversation, which of them are an answer's, and the soft target of each mention."""
        assert sample.plans is not None
        messages: list[Message] = []
        plans = iter(sample.plans)
        mentioned: list[tuple[Plan, int]] = []
        trained: list[bool] = []
        for turn in sample.dialogue.turns:
            messages.append(Message(f"{_LISAS_REQUEST.sub('', turn.question)} {REQUEST}"))
            open_ids = self._ids(messages, total, open=True)
            trained += [False] * (len(open_ids) - len(trained))
            text, chosen = turn.answer or "", []
            while SEG in text:
                plan = next(plans)
                chosen += [(plan, step) for step in range(len(plan.sequence))]
                text = text.replace(f" {SEG}", f"{SEG}", 1).replace(SEG, MENTION * len(plan.sequence), 1)
            mentioned += chosen
            messages.append(Message(text, tuple(begin + plan.sequence[step] for plan, step in chosen)))
            ids = self._ids(messages, total, open=False)
            end = len(ids) - ids[::-1].index(self._reader.words.end_id)
            trained += [True] * (end - len(trained)) + [False] * (len(ids) - end)
        vocabulary_first = self._reader.words.first
        waiting = iter(mentioned)
        targets: list[tuple[int, NDArray[np.float32]] | None] = []
        for token, keep in zip(ids, trained, strict=True):
            is_mention = keep and vocabulary_first <= token < vocabulary_first + total
            plan_step = next(waiting) if is_mention else None
            targets.append(None if plan_step is None else (begin, plan_step[0].soft[plan_step[1]]))
        return ids, trained, targets

    def _ids(self, messages: Sequence[Message], total: int, *, open: bool) -> list[int]:
        return self._reader.words.prompt(messages, total, 1, open=open)

    # --- parity ---

    def join_as_the_reference(
        self, samples: Sequence[Sample], unheard: float, position: str, phrases: bool
    ) -> tuple[ExtractBatch, Tensor, int]:
        """The batch, its labels (B, L), and the number of positives, as the reference makes them."""
        words = self._reader.words
        positives = sum(sample.positives for sample in samples)
        parts = [sample.embeddings[: sample.positives] for sample in samples]
        parts += [sample.embeddings[sample.positives :] for sample in samples]
        owner = [n for n, sample in enumerate(samples) for _ in range(sample.positives)]
        owner += [n for n, sample in enumerate(samples) for _ in range(len(sample.embeddings) - sample.positives)]
        ids, labels, number = [], [], 1
        for sample in samples:
            draws = extract_texts.draw(position, phrases)
            numbers = range(number, number + sample.positives)
            number += sample.positives
            turn = sample.dialogue.turns[0]
            query = _LISAS_REQUEST.sub("", turn.question)
            explained = (turn.answer or "").replace(f" {SEG}", "").replace(SEG, "").strip()
            answer = extract_texts.answer(explained, numbers, draws)
            text = words.render([extract_texts.question(query, draws), answer])
            row = words.encode(text)[:-1]
            chance = torch.rand(len(row))
            ids.append(
                [
                    IMAGE_ID if i == words.image_id else words.unknown_id if chance[at] < unheard else i
                    for at, i in enumerate(row)
                ]
            )
            labels.append(words.encode(answer + words.end))
        longest, most = max(map(len, ids)), max(map(len, labels))
        batch = ExtractBatch(
            pixels=torch.stack([sample.pixels for sample in samples]),
            embeddings=torch.cat(parts),
            ids=_left_padded(ids, longest, words.pad_id),
            attended=_left_padded([[1] * len(row) for row in ids], longest, 0) > 0,
            labels=torch.full((len(ids), longest), IGNORE),
            owner=torch.tensor(owner),
        )
        return batch, _left_padded(labels, most, words.pad_id), positives


def _distinct(masks: Sequence[NDArray[np.bool_]], keep: int) -> list[NDArray[np.bool_]]:
    """``masks`` without empty ones and copies of earlier ones. The first ``keep`` stay as they are."""
    chosen = list(masks[:keep])
    for mask in masks[keep:]:
        same = (np.count_nonzero(mask & one) >= SAME * np.count_nonzero(mask | one) for one in chosen)
        if mask.any() and not any(same):
            chosen.append(mask)
    return chosen


def _left_padded(rows: Sequence[Sequence[int]], length: int, value: int) -> Tensor:
    return torch.tensor([[value] * (length - len(row)) + list(row) for row in rows])
