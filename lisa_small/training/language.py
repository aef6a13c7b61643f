"""Stages 2 and 3: the language model, first over pictures made of class names, then over real image tokens.

Stage 2 replaces the image encoder by the truth: a cell of the picture that a hammer covers is the vector "hammer" at
that cell. Only covered cells become tokens, so a conversation is cheap, and the language model learns what people mean,
what is absent and what lies left of what without waiting for pixels.
Stage 3 swaps in the real image tokens, at the same places, and connects the state of ``[SEG]`` to the mask decoder.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lisa_ros.data.scene_records import ConversationRecord, SceneRecord
from lisa_ros.errors import ConfigError
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.training.loop import Pace, Pass, TrainingLoop, make_accelerator
from lisa_ros.training.report import Report
from lisa_ros.training.schedule import ParameterGroup, adamw, cosine
from lisa_ros.training.settings import check_positive, check_shares
from lisa_ros.training.snapshot import Snapshots
from lisa_small.network.presence import presence_of
from lisa_small.training.augment import letterbox_ids
from lisa_small.training.dialogue import VERDICT, Speech, Suffix
from lisa_small.training.packing import (
    WHOLE_ATTENTION,
    Cells,
    Packed,
    by_row,
    cells_of,
    pack,
    predict_packed,
    read_packed,
    states_at,
)
from lisa_small.training.pointing import pointing_losses
from lisa_small.training.practice import Practice
from lisa_small.training.precision import half_precision
from lisa_small.training.scenes import Scene

log = logging.getLogger(__name__)

Conversations = Callable[..., list[ConversationRecord]]
"""conversations_for(scene record, rng, count, split, kinds=None, weight=None): where the sentences come from.

kinds is given where a round has some, and weight (Practice.weight) where ``known`` is below 1: then a conversation
tells by "phrase" which of the weighted phrases it says."""

SAVE_EVERY = 200
"""Steps between snapshots."""

VALIDATE_EVERY = 500
"""Steps between looks at how many answers are right to the last word."""

POINT = 1.0
"""Weight of the losses of supervised attention (lisa_small.training.pointing)."""


def presence_loss(lisa: Lisa, packed: Packed, hidden: Tensor) -> Tensor:
    """How well the states that name a thing know whether it is there: BCE, or 0 for a model without that part."""
    presence = presence_of(lisa)
    if presence is None or not packed.presence:
        return hidden.sum() * 0.0
    rows, at, there = zip(*packed.presence, strict=True)
    states = states_at(hidden, rows, at)
    scores = [presence.match(states[mine], packed.images[row][1]) for row, mine in by_row(rows)]
    return F.binary_cross_entropy_with_logits(torch.cat(scores).float(), torch.tensor(there, dtype=torch.float32))


def seg_truth(
    segs: list[tuple[int, int, list[int]]], scenes: list[Scene], cells: list[Cells], class_index: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Classes (S, K), place (S, 2) and whether there is one (S,), as where one object is meant, of a batch's masks."""
    classes, places = torch.zeros(len(segs), len(class_index)), torch.zeros(len(segs), 2)
    single = torch.zeros(len(segs))
    for s, (row, _, target_ids) in enumerate(segs):
        objects = {o["id"]: o["class"] for o in scenes[row].record["objects"]}
        for name in {objects[i] for i in target_ids}:
            classes[s, class_index[name]] = 1
        if len(target_ids) == 1 and target_ids[0] in cells[row].places:
            x, y, _ = cells[row].places[target_ids[0]]
            places[s, 0], places[s, 1], single[s] = x, y, 1.0
    return classes, places, single


Picture = Callable[[int, random.Random], tuple[Tensor, Tensor]]
"""A scene's number to the cells (n,) that are shown of it and their image tokens (n, H)."""

ExtraLoss = Callable[[Tensor, Packed, list[int], random.Random], tuple[Tensor, dict[str, float]]]
"""Hidden states, the packed batch and scene numbers to a loss and values to report."""


@dataclass(frozen=True)
class LanguageConfig:
    """Settings of one round of stage 2 or 3.

    Args:
        steps: Of the optimizer.
        pictures: Of a step.
        conversations: About each picture.
        absent: Least share of them that ask for what is not there, if the supply has so many: a model that seldom
            sees absent targets never rejects one.
        lr: Learning rate after the warm-up.
        lr_end: At the end, after half a cosine.
        warmup: Steps in which the learning rate rises.
        weight_decay: AdamW's, for matrices.
        drawn: Masks decoded for each picture, on average (stage 3).
        draw_weight: Of their loss.
        empty_cells: Largest number of cells without an object that become image tokens.
        covered_cells: Largest number of cells with one; None: all. Of each object there are at least the cell that
            shows most of it and the cell with its middle. A model in use sees all cells; fewer cost less.
        kinds: Kind of conversation -> weight; None: the supply's own.
        forgotten: Share of a question's tokens that are made unknown if it describes a present target by a use, a need
            or a property, so that the other tokens have to do.
        known: How often a phrase is asked that was answered correctly of late, relative to one that was not. 1 asks
            all equally often.
        precision: Of products, as in :func:`half_precision`.
        seed: Of everything random.
    """

    steps: int
    pictures: int = 8
    conversations: int = 8
    absent: float = 0.4
    lr: float = 2e-3
    lr_end: float = 0.0
    warmup: int = 100
    weight_decay: float = 0.02
    drawn: float = 3
    draw_weight: float = 1.0
    empty_cells: int = 12
    covered_cells: int | None = None
    kinds: dict[str, float] | None = None
    forgotten: float = 0.0
    known: float = 1.0
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        check_positive(self, "steps", "pictures", "conversations", "lr", "warmup")
        check_shares(self, "absent", "forgotten", "known")
        if self.drawn < 0 or self.empty_cells < 0:
            raise ConfigError(f"drawn is {self.drawn} and empty_cells {self.empty_cells}; none may be below 0")
        if self.kinds is not None and (min(self.kinds.values(), default=0) < 0 or sum(self.kinds.values()) <= 0):
            raise ConfigError(f"kinds is {self.kinds}; weights are 0 or more, and one is above")
        half_precision(self.precision)


class Library:
    """Scenes with what the language stages need of them, and a supply of fresh conversations.

    Args:
        scenes: With pictures and ids.
        class_index: Class -> its index.
        speech: How conversations become ids.
        conversations: The supply.
        size: Side of the encoder's picture, pixels.
        grid: Image tokens of a side.
    """

    def __init__(
        self,
        scenes: list[Scene],
        class_index: dict[str, int],
        speech: Speech,
        conversations: Conversations,
        size: int,
        grid: int,
    ):
        self.scenes = scenes
        self.class_index = class_index
        self.speech = speech
        self._conversations = conversations
        self.cells = [cells_of(scene, class_index, size, grid) for scene in scenes]
        self.size = size
        self.grid = grid

    def draw(
        self,
        count: int,
        each: int,
        rng: random.Random,
        absent: float = 0.0,
        kinds: dict[str, float] | None = None,
        split: str = "train",
        practice: Practice | None = None,
    ) -> tuple[list[int], list[list[Suffix]]]:
        """``count`` scenes and ``each`` fresh conversations about each. What cannot be used is named and skipped."""
        options: dict[str, Any] = {"kinds": kinds} if kinds else {}
        if practice:
            options["weight"] = practice.weight
        chosen: list[int] = []
        suffixes: list[list[Suffix]] = []
        while len(chosen) < count:
            number = rng.randrange(len(self.scenes))
            usable, record = [], self.scenes[number].record
            for conversation in self._mixed(record, each, rng, absent, split, options):
                try:
                    usable.append(self.speech.suffix(conversation, rng, record["objects"]))
                except ValueError as error:
                    log.warning("a conversation about scene %s is skipped: %s", self.scenes[number].record["id"], error)
            if usable:
                chosen.append(number)
                suffixes.append(usable)
        return chosen, suffixes

    def _mixed(
        self, record: SceneRecord, count: int, rng: random.Random, absent: float, split: str, options: dict[str, Any]
    ) -> list[ConversationRecord]:
        """``count`` conversations, a share of ``absent`` about what is not there."""
        if not absent:
            return self._conversations(record, rng, count, split, **options)
        supply = self._conversations(record, rng, 4 * count, split, **options)
        missing = [c for c in supply if not c["turns"][-1]["targets"]][: round(absent * count + rng.random() - 0.5)]
        return missing + [c for c in supply if c["turns"][-1]["targets"]][: count - len(missing)]

    def truth(self, number: int, target_ids: list[int]) -> Tensor:
        """(size / 2, size / 2) float32: the mask of ``wanted`` at the mask decoder's grid, soft at edges."""
        ids = letterbox_ids(self.scenes[number].ids, self.size)
        mask = torch.from_numpy(np.isin(ids, target_ids)).float()
        return F.avg_pool2d(mask[None], 2)[0]


def train_language(
    lisa: Lisa,
    library: Library,
    config: LanguageConfig,
    groups: list[ParameterGroup],
    picture: Picture,
    extra_loss: ExtraLoss,
    validate: Callable[[], dict[str, float]],
    report: Report,
    folder: Path,
    change: Callable[[Packed, list[int]], Packed] = lambda packed, numbers: packed,
) -> Snapshots:
    """Run one round of stage 2 or 3, or the rest of it.

    Args:
        lisa: The model; ``groups`` of it are trained.
        library: What conversations are drawn from.
        config: The round.
        groups: For AdamW.
        picture: How a scene is shown.
        extra_loss: What is added to the losses of the answers.
        validate: Called every VALIDATE_EVERY steps and at the end.
        report: Of this round.
        folder: Of snapshots, from which a stopped round resumes exactly.
        change: Changes what is read; it gets the packed batch and the scenes' numbers.

    Returns:
        The snapshots; the caller clears them when it has saved the model.

    Raises:
        TrainingDiverged: The loss or a weight is not finite.
        CheckpointError: The state of the stopped round cannot be used.
    """
    lisa.llama.set_attn_implementation(WHOLE_ATTENTION)
    practice = None if config.known == 1 else Practice(config.known)
    denial = library.speech.tokenizer.encode("that")[0]

    def forward(step: int, number: int) -> Pass:
        rng = random.Random(f"{config.seed}/{step}")
        numbers, suffixes = library.draw(
            config.pictures, config.conversations, rng, config.absent, config.kinds, practice=practice
        )
        for suffix in chain.from_iterable(suffixes):
            library.speech.forget(suffix, config.forgotten, rng)
        with half_precision(config.precision):
            images = [picture(number, rng) for number in numbers]
            packed = change(pack(lisa, library.speech, images, suffixes, library.grid**2), numbers)
            states = read_packed(lisa, packed)
            logits = predict_packed(lisa, packed, states[-1]).float()
            presence = presence_loss(lisa, packed, states[-1])
            looks = pointing_losses(lisa, packed, states, [library.cells[number] for number in numbers])
            extra, parts = extra_loss(states[-1], packed, numbers, rng)
        answer = F.cross_entropy(logits, packed.answer_ids, reduction="none")
        answer = (answer * packed.answer_weights).sum() / packed.answer_weights.sum()
        correct = (logits.argmax(-1) == packed.answer_ids).float()
        verdicts = packed.answer_weights == VERDICT
        if practice:
            for suffix, rights in of_each(suffixes, correct):
                if suffix.phrase:
                    practice.note(suffix.phrase, bool(suffix.segs), not bool(rights.all()))
        values: dict[str, Tensor | float] = {
            "answer": answer,
            "right": correct.mean(),
            "verdict": _share(correct[verdicts]),
            "denied": _share(correct[verdicts & (packed.answer_ids == denial)]),
            "presence": presence,
            **looks,
            **parts,
        }
        return Pass(answer + presence + POINT * sum(looks.values()) + extra, values, config.pictures)

    trained = [parameter for group in groups for parameter in group["params"]]
    chosen = {id(parameter) for parameter in trained}
    names = {name: parameter for name, parameter in lisa.named_parameters() if id(parameter) in chosen}
    accelerator = make_accelerator(cpu=True)
    optimizer = adamw(groups, beta2=0.98)
    snapshots = Snapshots(folder, accelerator, names, memory=practice)
    schedule = cosine(optimizer, [config], config.warmup)
    pace = Pace(config.steps, SAVE_EVERY, VALIDATE_EVERY)
    loop = TrainingLoop(accelerator, None, trained, optimizer, schedule, snapshots, report, pace)
    loop.run(lambda first: forward, lambda done: validate())
    return snapshots


@torch.no_grad()
def exactness(
    lisa: Lisa, library: Library, picture: Picture, split: str, count: int = 96, each: int = 12, seed: int = 0
) -> dict[str, float]:
    """Share of answers that greedy decoding gets right to the last token, over all and by kind.

    count: pictures. each: conversations about each. split: of the phrasings."""
    rng = random.Random(seed)
    right: dict[str, list[bool]] = {}
    for begin in range(0, count, 8):
        numbers, suffixes = library.draw(min(8, count - begin), each, rng, split=split)
        packed = pack(lisa, library.speech, [picture(n, rng) for n in numbers], suffixes, library.grid**2)
        correct = predict_packed(lisa, packed, read_packed(lisa, packed)[-1]).argmax(-1) == packed.answer_ids
        for suffix, rights in of_each(suffixes, correct):
            for key in ("exact", f"exact {suffix.kind}"):
                right.setdefault(key, []).append(bool(rights.all()))
    return {key: sum(results) / len(results) for key, results in sorted(right.items())}


def of_each(suffixes: list[list[Suffix]], answers: Tensor) -> Iterator[tuple[Suffix, Tensor]]:
    """Each conversation with what belongs to its answers' tokens, of (A,) for those of all."""
    flat = list(chain.from_iterable(suffixes))
    lengths = [sum(weight > 0 for weight in suffix.weights) for suffix in flat]
    return zip(flat, answers.split(lengths), strict=True)


def _share(correct: Tensor) -> float:
    """Mean of 0s and 1s; 1 of none, where nothing was wrong."""
    return float(correct.mean()) if len(correct) else 1.0
