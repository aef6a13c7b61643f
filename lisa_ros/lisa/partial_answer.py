"""An answer while it is generated: from tokens to text, names and the states that become masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import Region, Span
from lisa_ros.lisa.answer_text import AnswerText
from lisa_ros.lisa.family import Family
from lisa_ros.lisa.grounding import Grounding
from lisa_ros.lisa.mentions import Found, Mention, closest, found, name_before
from lisa_ros.lisa.pointing import Pointing
from lisa_ros.lisa.preprocess import Size
from lisa_ros.lisa.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class Step:
    """One new token.

    Args:
        token: Its id.
        hidden: (H,) the state that predicted it.
        logits: (V,) from that state.
    """

    token: int
    hidden: Tensor
    logits: Tensor


@dataclass(eq=False)
class Coarse:
    """A coarse token.

    Args:
        hidden: (H,) the state that predicted it.
        logits: (1, h, w) of its mask; None until it is decoded.
    """

    hidden: Tensor
    logits: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Mark:
    """A mask token whose mask is to be decoded.

    Args:
        hidden: (H,) the state that predicted it.
        probability: Of the token, in [0, 1].
        confidence: The same; for a family with a reject token its share of the two tokens' probabilities.
        span: Its place in the text.
        mention: Its index among the mentions.
        coarse: The coarse mask that prompts it.
    """

    hidden: Tensor
    probability: float
    confidence: float
    span: Span
    mention: int
    coarse: Coarse | None


class PartialAnswer:
    """The answer so far.

    Args:
        tokenizer: The model's.
        family: The model's.
        grounding: Meaning of the tokens.
        targets: Of the command, where one answer is about all of them; else empty.
        max_masks: Most masks.
        details: Store what :attr:`Answer.details` needs.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        family: Family,
        grounding: Grounding,
        targets: Sequence[str],
        max_masks: int,
        details: bool,
    ) -> None:
        self.ids: list[int] = []
        self.new_coarse: list[Coarse] = []  # since the last :meth:`add`
        self.pointing: Pointing | None = None  # of the command
        self._tokenizer = tokenizer
        self._family = family
        self._grounding = grounding
        self._reject_id = tokenizer.id_of(family.reject_token)
        self._targets = targets
        self._masks_left = max_masks
        self._wants_details = details
        self._text = AnswerText(tokenizer)
        self._name: list[int] = []  # ids since the last mask or reject token
        self._mentions: list[Mention] = []
        self._coarse: dict[int, Coarse] = {}  # by the position that predicted it
        self._low_res: list[Tensor] = []  # each (S, 1, h, w)
        self._coarse_low_res: list[Tensor] = []  # each (1, 1, h, w)
        self._logits: list[NDArray[np.float32]] = []  # each (S, H, W)
        self._probabilities: list[float] = []
        self._proposals: list[list[int]] = []  # of each mask that is chosen among proposals

    @property
    def text(self) -> str:
        return self._text.text

    def add(self, steps: Sequence[Step]) -> list[Mark]:
        """Add new tokens. Returns those whose masks are to be decoded."""
        self.new_coarse = []
        return [mark for step in steps if (mark := self._add(step)) is not None]

    def _add(self, step: Step) -> Mark | None:
        self.ids.append(step.token)
        self._text.push(step.token)
        if self._grounding.is_coarse(step.token):
            self.new_coarse.append(Coarse(step.hidden))
            self._coarse[len(self.ids) - 2] = self.new_coarse[-1]
        is_mask = self._grounding.is_mask(step.token)
        if not is_mask and step.token != self._reject_id:
            self._name.append(step.token)
            return None
        name = name_before(self._tokenizer.answer_text(self._name), self._family)
        self._name.clear()
        self._mentions.append(Mention(name, rejected=not is_mask))
        if not is_mask or not self._masks_left:
            return None
        self._masks_left -= 1
        end = len(self.text)
        span = (end - len(self._tokenizer.decode([step.token])), end)
        whose = self._grounding.coarse_of(self.ids)[-1]
        coarse = None if whose is None else self._coarse[whose]
        probabilities = step.logits.float().softmax(-1)
        probability = confidence = float(probabilities[step.token])
        if self._reject_id is not None:
            confidence /= probability + float(probabilities[self._reject_id])
        return Mark(step.hidden, probability, confidence, span, len(self._mentions) - 1, coarse)

    def phrase_of(self, mark: Mark) -> str:
        """The target that a mask is of, or else the name before it."""
        name = self._mentions[mark.mention].name
        return closest(name, self._targets) or name

    def place(self, mark: Mark, region: Region) -> None:
        """Store the region of a mask."""
        self._mentions[mark.mention] = replace(self._mentions[mark.mention], region=region)

    def store(self, marks: Sequence[Mark], low_res: Tensor, logits: NDArray[np.float32]) -> None:
        """Keep a copy of the logits (S, 1, h, w) and (S, H, W) of masks, if details are wanted."""
        if self._wants_details:
            coarse = [mark.coarse.logits for mark in marks if mark.coarse is not None]
            self._coarse_low_res += [one[None].float() for one in coarse if one is not None]
            self._low_res.append(low_res)
            self._logits.append(logits.copy())
            self._probabilities += [mark.probability for mark in marks]

    def choose(self, mark: Mark, proposals: list[int]) -> None:
        """Note which proposals a mask is made of; :meth:`details` has them."""
        self._proposals.append(proposals)
        self._probabilities.append(mark.probability)

    def found(self) -> Found:
        return found(self._mentions, self._targets, self._family)

    def choices(self) -> dict[str, Any] | None:
        """As :attr:`Answer.details`, of masks that were chosen; None if they are not wanted."""
        if not self._wants_details:
            return None
        probabilities = np.array(self._probabilities, np.float32)
        return {"answer_ids": self.ids, "seg_probabilities": probabilities, "proposal_ids": self._proposals}

    def details(self, size: Size, side: int) -> dict[str, Any] | None:
        """As :attr:`Answer.details`; None if they are not wanted.

        Args:
            size: (height, width) of the frame, pixels.
            side: Of the masks at low resolution.
        """
        if not self._wants_details:
            return None
        details: dict[str, Any] = {
            "answer_ids": self.ids,
            "mask_logits": np.concatenate([np.zeros((0, *size), np.float32), *self._logits]),
            "low_res_logits": _joined(self._low_res, side),
            "seg_probabilities": np.array(self._probabilities, np.float32),
        }
        if self._family.coarse_token:
            details["coarse_low_res_logits"] = _joined(self._coarse_low_res, side)
        return details


def _joined(masks: Sequence[Tensor], side: int) -> NDArray[np.float32]:
    """(S, 1, side, side) float32."""
    joined: NDArray[np.float32] = torch.cat([torch.zeros(0, 1, side, side), *(mask.cpu() for mask in masks)]).numpy()
    return joined
