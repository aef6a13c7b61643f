"""The scenes of ``lisa scenes``, for LISA's own recipe: the conversations in the file, or endless fresh ones."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

from lisa_ros.data.picture import BadExample, check_picture, read_label_map, read_picture
from lisa_ros.data.scene_records import ConversationRecord, SceneRecord
from lisa_ros.engine.api import Turn
from lisa_ros.errors import CommandError, ConfigError
from lisa_ros.lisa.prompt import QuestionForms, phrase_command
from lisa_ros.training.datasets.example import Dialogue, Example
from lisa_small.training.scenes import read_records


class Scenes:
    """path: folder of ``lisa scenes``. questions: conversations in one step. fresh: new ones even where it has some."""

    def __init__(self, path: Path, *, questions: int = 3, fresh: bool = False) -> None:
        self._path = path
        self._records = read_records(path)
        if not self._records:
            raise ConfigError(f"{path} has no scene")
        self._questions, self._fresh = questions, fresh

    def __len__(self) -> int:
        return len(self._records)

    def draw(self, rng: random.Random) -> Example:
        record = self._records[rng.randrange(len(self._records))]
        try:
            name = str(self._path / record["image"])
            rgb, ids = read_picture(self._path / record["image"]), read_label_map(self._path / record["ids"])
            check_picture(rgb, (ids.shape[0], ids.shape[1]), name)
            return Example(name, rgb, tuple(_dialogue(one, ids) for one in self._conversations(record, rng)))
        except (KeyError, TypeError, CommandError) as error:
            raise BadExample(f"scene {record.get('id')} of {self._path} is broken: {error!r}") from error

    def _conversations(self, record: SceneRecord, rng: random.Random) -> list[ConversationRecord]:
        told = record.get("conversations") or []
        if told and not self._fresh:
            return rng.sample(told, min(self._questions, len(told)))
        from lisa_small.scenes.commands import conversations_for

        return conversations_for(record, rng, self._questions, "train")


def _dialogue(conversation: ConversationRecord, ids: np.ndarray) -> Dialogue:
    turns, masks = [], []
    for number, told in enumerate(conversation["turns"]):
        question = phrase_command(
            told["command"], QuestionForms(), explain=bool(told.get("explain")), follow_up=number > 0
        )
        turns.append(Turn(question, told["answer"]))
        if told["targets"]:
            masks.append(np.isin(ids, told["targets"]).astype(np.uint8))
    return Dialogue(tuple(turns), np.stack(masks) if masks else np.zeros((0, *ids.shape), np.uint8))
