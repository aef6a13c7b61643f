"""LISA whose ``[SEG]`` chooses among proposals instead of prompting the mask decoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import (
    POINTS,
    PROPOSALS,
    Answer,
    Ask,
    EngineInfo,
    MaskCrop,
    OnEvent,
    Proposals,
    Region,
    ShouldStop,
)
from lisa_ros.errors import CommandError
from lisa_ros.extractive.choosing import Chooser, Chosen
from lisa_ros.extractive.proposers.proposer import Arrangement, Proposer, proposals_of
from lisa_ros.lisa.partial_answer import Mark, PartialAnswer
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter
from lisa_ros.perception.masks import union_image, united_crop
from lisa_ros.perception.packed_crops import packed


@dataclass(eq=False)
class ChoosingImage(EncodedImage):
    """An encoded frame with what is chosen from.

    Args:
        prepared: The chooser's, for ``proposals``.
        given: The last proposals that came with a command, and the chooser's for them.
    """

    prepared: Any = None
    given: tuple[Proposals, Any] | None = None


class ChoosingSegmenter(Segmenter):
    """The engines ``llm-seg`` and ``nearest``: LISA reads and answers, a chooser makes regions of its ``[SEG]``.

    A ``[SEG]`` becomes one region, the union of the chosen proposals, or none. Proposals are made once a frame, when
    the first ``[SEG]`` needs them; those of ``Ask.proposals`` replace them for one command.
    ``Answer.details["proposal_ids"]`` has a list of indices for each ``[SEG]``.
    """

    proposer: Proposer
    chooser: Chooser
    arrangement: Arrangement
    _given: Proposals | None = None

    def choose_with(self, proposer: Proposer, chooser: Chooser, arrangement: Arrangement) -> None:
        """Set what proposes and what chooses. To be called once, before the first command."""
        self.proposer, self.chooser, self.arrangement = proposer, chooser, arrangement

    @property
    def info(self) -> EngineInfo:
        info = super().info
        return replace(info, capabilities=(info.capabilities - {POINTS}) | {PROPOSALS})

    def encode(self, rgb: NDArray[np.uint8]) -> ChoosingImage:
        """As :meth:`Segmenter.encode`."""
        return ChoosingImage(**vars(super().encode(rgb)))

    def ask(
        self,
        encoded: EncodedImage,
        ask: Ask,
        on_event: OnEvent | None = None,
        should_stop: ShouldStop | None = None,
        details: bool = False,
        draft: bool = True,
    ) -> Answer:
        """As :meth:`Segmenter.ask`.

        Raises:
            CommandError: ``ask.proposals`` has no masks, or masks of another size than the frame.
        """
        if ask.proposals is not None:
            check_masks(ask.proposals, encoded.size)
        self._given = ask.proposals
        try:
            return super().ask(encoded, ask, on_event, should_stop, details, draft)
        finally:
            self._given = None

    def teacher_forced(self, encoded: EncodedImage, asks: Sequence[Ask], answers: Sequence[str]) -> NDArray[np.bool_]:
        """As :meth:`Segmenter.teacher_forced`: the union of what is chosen for each ``[SEG]`` of the last answer."""
        with torch.inference_mode():
            ids, hidden, begin = self._read_answers(encoded, asks, answers)
            predicts = [at - 1 for at in range(begin, len(ids)) if self.grounding.is_mask(ids[at])]
            chosen = self._choose(encoded, hidden[predicts], [1.0] * len(predicts))
        crops = packed(self._candidates(encoded)[0])
        indices = sorted({index for one in chosen for index in one.indices})
        return union_image([crops[index] for index in indices], encoded.size) > 0

    @torch.inference_mode()
    def proposals(self, encoded: EncodedImage) -> Proposals:
        """The proposals of a frame, in their order, with a mask for each."""
        return proposals_of(encoded, self.proposer, self.arrangement)

    def _candidates(self, encoded: EncodedImage) -> tuple[Proposals, Any]:
        """What is chosen from, and the chooser's for it; computed where it is missing."""
        assert isinstance(encoded, ChoosingImage)
        if self._given is not None:
            if encoded.given is None or encoded.given[0] is not self._given:
                encoded.given = self._given, self.chooser.prepare(encoded, self._given)
            return encoded.given
        proposals = self.proposals(encoded)
        if encoded.prepared is None:
            encoded.prepared = self.chooser.prepare(encoded, proposals)
        return proposals, encoded.prepared

    def _choose(self, encoded: EncodedImage, hidden: Tensor, confidences: Sequence[float]) -> list[Chosen]:
        """For the states (S, H) that predict ``[SEG]``."""
        proposals, prepared = self._candidates(encoded)
        prompts = self.lisa.seg_projector(hidden)
        pairs = zip(prompts, confidences, strict=True)
        return [self.chooser.choose(prompt, confidence, proposals, prepared) for prompt, confidence in pairs]

    # --- the parts of the answer that the segmenter leaves to what makes masks

    def _ready_masks(self, encoded: EncodedImage) -> float:
        begun = time.perf_counter()
        self._candidates(encoded)
        return time.perf_counter() - begun

    def _decode(self, encoded: EncodedImage, answer: PartialAnswer, marks: list[Mark]) -> list[Region]:
        hidden = torch.stack([mark.hidden for mark in marks])
        chosen = self._choose(encoded, hidden, [mark.confidence for mark in marks])
        proposals, _ = self._candidates(encoded)
        regions = []
        for mark, one in zip(marks, chosen, strict=True):
            answer.choose(mark, one.indices)
            if one.indices:
                phrase = _phrase(proposals, one) or one.phrase or answer.phrase_of(mark)
                region = Region(_united(proposals, one), one.score, phrase, span=mark.span)
                answer.place(mark, region)
                regions.append(region)
        return regions

    def _details(self, encoded: EncodedImage, answer: PartialAnswer) -> dict[str, Any] | None:
        return answer.choices()


def check_masks(proposals: Proposals, size: tuple[int, int]) -> None:
    """Check proposals from outside.

    Raises:
        CommandError: They have no masks, or masks of another size than (height, width).
    """
    if proposals.masks is None and not len(proposals.crops) and len(proposals):
        raise CommandError(f"{len(proposals)} proposals without masks; give masks or crops")
    if proposals.masks is not None and proposals.masks.shape[1:] != size:
        raise CommandError(
            f"the proposals are masks of shape {proposals.masks.shape}; the image needs (N, {size[0]}, {size[1]})"
        )
    for crop in proposals.crops:
        if crop.x + crop.width > size[1] or crop.y + crop.height > size[0]:
            raise CommandError(
                f"a proposal reaches to x {crop.x + crop.width}, y {crop.y + crop.height}; the image has "
                f"{size[1]} x {size[0]} pixels"
            )


def _united(proposals: Proposals, chosen: Chosen) -> MaskCrop:
    crops = packed(proposals)
    if len(chosen.indices) == 1:
        return replace(crops[chosen.indices[0]], label=0, score=chosen.score)
    return united_crop([crops[index] for index in chosen.indices], chosen.score)


def _phrase(proposals: Proposals, chosen: Chosen) -> str:
    """The name that all of them have; empty where they have none or several."""
    names = {proposals.phrases[index] for index in chosen.indices} if proposals.phrases else set()
    return names.pop() if len(names) == 1 else ""
