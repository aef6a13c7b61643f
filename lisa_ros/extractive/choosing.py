"""The choice among a frame's proposals, for one ``[SEG]``: by LLM-Seg's selector, or by the nearest mask prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import Proposals
from lisa_ros.errors import CommandError
from lisa_ros.extractive.features import Vision
from lisa_ros.extractive.proposers.drawn import Drawn
from lisa_ros.extractive.resize import square_weights
from lisa_ros.extractive.selector import POOLING_SIDE, Choice, Selector
from lisa_ros.lisa.segmenter import EncodedImage
from lisa_ros.perception.packed_crops import packed

MOST_TOGETHER = 3
"""Classes that one ``[SEG]`` may mean together, such as "everything to eat with"."""


@dataclass(frozen=True)
class Chosen:
    """What one ``[SEG]`` means.

    Args:
        indices: Of proposals, the best first; maybe none.
        score: In [0, 1], how sure it is that they are meant.
        phrase: A name for them, if the chooser knows one.
    """

    indices: list[int]
    score: float
    phrase: str = ""


class Chooser(Protocol):
    """Chooses among proposals."""

    def prepare(self, image: EncodedImage, proposals: Proposals) -> Any:
        """What does not depend on the command, computed once for a frame and its proposals.

        Raises:
            CommandError: These proposals cannot be chosen from.
        """

    def choose(self, prompt: Tensor, confidence: float, proposals: Proposals, prepared: Any) -> Chosen:
        """Choose for one ``[SEG]``.

        Args:
            prompt: (C,), the ``[SEG]`` state after ``seg_projector``.
            confidence: Probability of the token, in [0, 1].
            proposals: Of the frame.
            prepared: What :meth:`prepare` returned for them.
        """


class Selecting:
    """LLM-Seg: the selector compares the ``[SEG]`` embedding with vision features under each mask.

    Args:
        selector: On the model's device.
        vision: Makes the features.
        choice: How masks are chosen.
    """

    def __init__(self, selector: Selector, vision: Vision, choice: Choice):
        self.selector = selector
        self.vision = vision
        self.choice = choice

    def prepare(self, image: EncodedImage, proposals: Proposals) -> Tensor:
        """Features (K, D) under each mask."""
        patches = self.vision.patches(image)
        weights = square_weights(packed(proposals), image.size, POOLING_SIDE)
        return self.selector.pool(patches, weights.to(patches.device))

    def choose(self, prompt: Tensor, confidence: float, proposals: Proposals, prepared: Tensor) -> Chosen:
        del confidence  # the share of a mask that belongs to what is meant is the better score
        similarity, iop = self.selector.select(prompt.float()[None], prepared)
        areas = packed(proposals).areas
        similarities = np.where(areas > 0, similarity[0].cpu().numpy(), -np.inf)  # an empty mask is never meant
        shares = np.where(areas > 0, iop[0].cpu().numpy(), 0.0)
        chosen = [index for index in self.choice.of(similarities, shares) if areas[index]]
        score = float(np.average(shares[chosen], weights=areas[chosen])) if chosen else 0.0
        return Chosen(chosen, score)


@dataclass(frozen=True, eq=False)
class _Candidates:
    """rows: (R, C) mask prompts. members: The proposals that each row stands for. labels: Class of each proposal."""

    rows: Tensor
    members: list[list[int]]
    labels: list[int]


class NearestPrompt:
    """Without training: the set of proposals whose mask prompt is nearest to the ``[SEG]`` embedding.

    A proposal's prompt is that of its class and of its place. All proposals of a class, or of up to three classes, are
    candidates too: the sum of the classes' prompts, without a place.

    Args:
        drawn: Knows the prompts.
    """

    def __init__(self, drawn: Drawn):
        self._drawn = drawn

    def prepare(self, image: EncodedImage, proposals: Proposals) -> _Candidates:
        areas = packed(proposals).areas
        if len(areas) != len(proposals):
            raise CommandError(f"{len(proposals)} proposals have {len(areas)} masks; give a mask for each")
        labels = self._drawn.labels_of(image, proposals)
        prompts = self._drawn.prompts_of(image, proposals, labels)
        there = [index for index, area in enumerate(areas) if area]
        rows, members = [prompts[index] for index in there], [[index] for index in there]
        of_class: dict[int, list[int]] = {}
        for index in there:
            of_class.setdefault(labels[index], []).append(index)
        for count in range(1, MOST_TOGETHER + 1):
            for classes in combinations(sorted(of_class), count):
                rows.append(self._drawn.class_prompts[list(classes)].sum(dim=0))
                members.append([index for label in classes for index in of_class[label]])
        stacked = torch.stack(rows) if rows else prompts[:0]
        return _Candidates(stacked, members, labels)

    def choose(self, prompt: Tensor, confidence: float, proposals: Proposals, prepared: _Candidates) -> Chosen:
        if not prepared.members:
            return Chosen([], 0.0)
        distances = (prepared.rows - prompt.float()).square().sum(dim=1)
        chosen = prepared.members[int(distances.argmin())]
        classes = {prepared.labels[index] for index in chosen}
        phrase = self._drawn.classes[classes.pop()] if len(classes) == 1 else ""
        return Chosen(chosen, confidence * _mean_score(proposals.scores, chosen), phrase)


def _mean_score(scores: NDArray[np.floating] | None, chosen: Sequence[int]) -> float:
    """1 where the proposals have no scores."""
    return 1.0 if scores is None else float(np.clip(np.mean(np.asarray(scores)[list(chosen)]), 0.0, 1.0))
