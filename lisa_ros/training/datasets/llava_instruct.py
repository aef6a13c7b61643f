"""LLaVA-Instruct: conversations about COCO's pictures without masks, so that LISA does not forget how to talk."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np

from lisa_ros.data.picture import BadExample, read_picture
from lisa_ros.engine.api import Turn
from lisa_ros.errors import ConfigError
from lisa_ros.json_file import read_json
from lisa_ros.lisa.tokenizer import IMAGE
from lisa_ros.training.datasets.example import Dialogue, Example


class LlavaInstruct:
    """path: llava_instruct_150k.json. images: COCO's train2017."""

    def __init__(self, path: Path, *, images: Path) -> None:
        told = read_json(path)
        if not isinstance(told, list):
            raise ConfigError(f"{path} is not a list of conversations")
        self._told = [one for one in told if isinstance(one, dict) and "image" in one]
        if not self._told:
            raise ConfigError(f"{path} has no conversation about a picture")
        self._images = images

    def __len__(self) -> int:
        return len(self._told)

    def draw(self, rng: random.Random) -> Example:
        told = self._told[rng.randrange(len(self._told))]
        file = self._images / str(told["image"])
        rgb = read_picture(file)
        try:
            said = [(str(one["from"]), str(one["value"])) for one in told["conversations"]]
        except (KeyError, TypeError) as error:
            raise BadExample(f"conversation {told.get('id')} about {file} is broken: {error!r}") from error
        if len(said) % 2 or any(who != ("human", "gpt")[i % 2] for i, (who, _) in enumerate(said)):
            raise BadExample(f"conversation {told.get('id')} about {file} does not go human, gpt, human, gpt")
        # The template puts the picture first, wherever the data has it.
        turns = [
            Turn(question.replace(IMAGE, "").strip(), answer.strip())
            for (_, question), (_, answer) in list(pairwise(said))[::2]
        ]
        return Example(str(file), rgb, (Dialogue(tuple(turns), np.zeros((0, *rgb.shape[:2]), np.uint8)),))
