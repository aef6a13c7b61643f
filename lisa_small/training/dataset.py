"""The scenes of ``lisa scenes``, for LISA's own recipe: the conversations in the file, or endless fresh ones."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.picture import BadExample
from lisa_ros.data.scene_records import ConversationRecord, SceneRecord
from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.engine.api import Turn
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.lisa.family import Family
from lisa_ros.lisa.prompt import QuestionForms, phrase_command
from lisa_ros.training.datasets.example import Dialogue, Example
from lisa_ros.training.phrasing import LISA, Phrasing, Target


class Scenes:
    """Scenes with conversations.

    Args:
        path: Folder of `lisa scenes`.
        questions: Conversations about a scene in one step; most names where things are asked for by name.
        fresh: New conversations, even where the file has some.
        targets: Share of pictures that are asked for several things by name, of which some may not be there.
        phrasing: The model's questions and answers.

    Raises:
        ConfigError: The folder has no scene.
    """

    def __init__(
        self,
        path: Path,
        *,
        questions: int = 3,
        fresh: bool = False,
        targets: float = 0.0,
        phrasing: Phrasing = LISA,
    ) -> None:
        self._path = path
        self._records = read_records(path)
        if not self._records:
            raise ConfigError(f"{path} has no scene")
        self._questions, self._fresh = questions, fresh
        self._targets, self._phrasing = targets, phrasing

    def __len__(self) -> int:
        return len(self._records)

    def draw(self, rng: random.Random) -> Example:
        record = self._records[rng.randrange(len(self._records))]
        rgb, ids = read_pair(self._path, record)
        try:
            if rng.random() < self._targets:
                dialogues = self._by_name(record, ids, rng)
            else:
                family = self._phrasing.family
                dialogues = tuple(_dialogue(one, ids, family) for one in self._conversations(record, rng))
        except (KeyError, TypeError, ValueError, AttributeError, CommandError) as error:
            raise BadExample(f"scene {record['id']} of {self._path} is broken: {error!r}") from error
        return Example(str(self._path / record["image"]), rgb, dialogues)

    def _conversations(self, record: SceneRecord, rng: random.Random) -> list[ConversationRecord]:
        known = record.get("conversations") or []
        if known and not self._fresh:
            return rng.sample(known, min(self._questions, len(known)))
        from lisa_small.scenes.commands import conversations_for

        return conversations_for(record, rng, self._questions, "train")

    def _by_name(self, record: SceneRecord, ids: NDArray[np.uint8], rng: random.Random) -> tuple[Dialogue, ...]:
        from lisa_small.scenes.commands import named_things

        things = named_things(record, rng, rng.randint(1, self._questions), "train")
        targets = [
            Target(name, np.isin(ids, numbers).astype(np.uint8) if numbers else None) for name, numbers in things
        ]
        return Phrasing(self._phrasing.family, plain=True).dialogues(targets, (ids.shape[0], ids.shape[1]), rng)


def _dialogue(conversation: ConversationRecord, ids: NDArray[np.uint8], family: Family) -> Dialogue:
    turns, masks = [], []
    for number, turn in enumerate(conversation["turns"]):
        question = phrase_command(
            turn["command"], QuestionForms(), explain=bool(turn.get("explain")), follow_up=number > 0
        )
        turns.append(Turn(question, family.true_answer(turn["answer"])))
        if turn["targets"]:
            masks.append(np.isin(ids, turn["targets"]).astype(np.uint8))
    return Dialogue(tuple(turns), np.stack(masks) if masks else np.zeros((0, *ids.shape), np.uint8), family)
