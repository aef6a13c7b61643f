"""LLaVA-Instruct: conversations about COCO's pictures without masks, so that LISA does not forget how to talk."""

from __future__ import annotations

import logging
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
from lisa_ros.training.phrasing import LISA, Phrasing

log = logging.getLogger(__name__)


class LlavaInstruct:
    """Conversations of LLaVA.

    Args:
        path: llava_instruct_150k.json.
        images: COCO's train2017.
        phrasing: The model's questions and answers; it only says which tokens may not be in a text.

    Raises:
        ConfigError: The file is missing or broken, or has no conversation about a picture.
    """

    def __init__(self, path: Path, *, images: Path, phrasing: Phrasing = LISA) -> None:
        content = read_json(path)
        if not isinstance(content, list):
            raise ConfigError(f"{path} is not a list of conversations")
        self._entries = [one for one in content if isinstance(one, dict) and "image" in one]
        if not self._entries:
            raise ConfigError(f"{path} has no conversation about a picture")
        if len(self._entries) < len(content):
            log.warning("skipped: %d conversations of %s without an 'image'", len(content) - len(self._entries), path)
        self._images, self._family = images, phrasing.family

    def __len__(self) -> int:
        return len(self._entries)

    def draw(self, rng: random.Random) -> Example:
        entry = self._entries[rng.randrange(len(self._entries))]
        file = self._images / str(entry["image"])
        rgb = read_picture(file)
        try:
            texts = [(str(one["from"]), str(one["value"])) for one in entry["conversations"]]
        except (KeyError, TypeError) as error:
            raise BadExample(f"conversation {entry.get('id')} about {file} is broken: {error!r}") from error
        if len(texts) % 2 or any(speaker != ("human", "gpt")[i % 2] for i, (speaker, _) in enumerate(texts)):
            raise BadExample(f"conversation {entry.get('id')} about {file} does not go human, gpt, human, gpt")
        # The template puts the picture first, wherever the data has it.
        turns = [
            Turn(question.replace(IMAGE, "").strip(), answer.strip())
            for (_, question), (_, answer) in list(pairwise(texts))[::2]
        ]
        return Example(str(file), rgb, (Dialogue(tuple(turns), np.zeros((0, *rgb.shape[:2]), np.uint8), self._family),))
