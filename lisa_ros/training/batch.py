"""From examples to what a step of training reads: pixels, ids, labels, and the mask of every mask token.

B images, N conversations, T ids, S masks of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lisa_ros.data.picture import BadExample
from lisa_ros.lisa.family import FAMILIES, Family
from lisa_ros.lisa.preprocess import ClipPreprocessing, Size, for_clip, for_sam
from lisa_ros.lisa.prompt import Template, build_prompt
from lisa_ros.lisa.tokenizer import Tokenizer
from lisa_ros.training.collate import answer_spans, collate, cuts_token
from lisa_ros.training.datasets.example import Dialogue, Example


@dataclass(frozen=True, eq=False)
class Prepared:
    """One example, ready to be batched. masks: (S, H, W) uint8, camera pixels, in the order of the texts' mask
    tokens."""

    pixels: Tensor
    tower_pixels: Tensor | None
    texts: tuple[str, ...]
    masks: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """pixels: (B, 3, size, size) float32. tower_pixels: (B, 3, crop, crop) float32, None where one encoder serves both.

    ids, labels: (N, T). image_of: the image of each conversation, N numbers that never fall. masks: of each image
    (S, H, W) uint8 of 0 and 1.
    """

    pixels: Tensor
    tower_pixels: Tensor | None
    ids: Tensor
    labels: Tensor
    image_of: tuple[int, ...]
    masks: tuple[Tensor, ...]

    @property
    def sizes(self) -> list[Size]:
        """(height, width) of each image, camera pixels."""
        return [(mask.shape[1], mask.shape[2]) for mask in self.masks]

    def to(self, device: torch.device) -> Batch:
        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            pixels=moved(self.pixels),
            tower_pixels=None if self.tower_pixels is None else moved(self.tower_pixels),
            ids=moved(self.ids),
            labels=moved(self.labels),
            masks=tuple(moved(mask) for mask in self.masks),
        )


@dataclass(frozen=True)
class Batcher:
    """How one model reads.

    input_size: side of the mask decoder's image, pixels. max_tokens: of a conversation, with one for the whole image.
    family: the model's.
    """

    tokenizer: Tokenizer
    template: Template
    image_start_end: bool
    input_size: int
    clip: ClipPreprocessing | None
    max_tokens: int
    family: Family = FAMILIES["lisa"]

    def prepare(self, example: Example, on_skip: Callable[[str], None]) -> Prepared:
        """Make pixels, and the conversations that fit.

        A conversation whose mask token would be cut off loses its last turns, masks included; one whose first turn is
        too long is left out.

        Args:
            example: A picture with conversations.
            on_skip: Called with what is left out and why.

        Raises:
            BadExample: No conversation is left.
        """
        fitting = []
        for dialogue in example.dialogues:
            try:
                fitting.append(self._fit(dialogue, example.name, on_skip))
            except BadExample as error:
                if len(example.dialogues) == 1:
                    raise
                on_skip(str(error))
        if not fitting:
            raise BadExample(f"{example.name}: no conversation about it can be used")
        return Prepared(
            pixels=torch.from_numpy(for_sam(example.rgb, self.input_size)),
            tower_pixels=None if self.clip is None else torch.from_numpy(for_clip(example.rgb, self.clip)),
            texts=tuple(self._text(dialogue) for dialogue in fitting),
            masks=torch.cat([torch.from_numpy(dialogue.masks) for dialogue in fitting]),
        )

    def join(self, prepared: Sequence[Prepared]) -> Batch:
        """One batch of several examples."""
        texts = [text for one in prepared for text in one.texts]
        tokens = collate(texts, self.tokenizer, self.template, self.max_tokens)
        towers = [one.tower_pixels for one in prepared if one.tower_pixels is not None]
        return Batch(
            pixels=torch.stack([one.pixels for one in prepared]),
            tower_pixels=torch.stack(towers) if towers else None,
            ids=tokens.ids,
            labels=tokens.labels,
            image_of=tuple(number for number, one in enumerate(prepared) for _ in one.texts),
            masks=tuple(one.masks for one in prepared),
        )

    def _text(self, dialogue: Dialogue) -> str:
        return build_prompt(dialogue.turns, self.template, im_start_end=self.image_start_end).text

    def _fit(self, dialogue: Dialogue, name: str, on_skip: Callable[[str], None]) -> Dialogue:
        fitting, token = dialogue, self.family.mask_token
        while cuts_token(self._text(fitting), self.tokenizer, self.max_tokens, self.family.answer_tokens):
            turns = fitting.turns[:-1]
            if not turns:
                raise BadExample(
                    f"{name}: {self._quote(dialogue)} is cut before its {token} at {self.max_tokens} tokens"
                )
            count = sum((turn.answer or "").count(token) for turn in turns)
            fitting = Dialogue(turns, dialogue.masks[:count], self.family)
        if fitting is not dialogue:
            on_skip(f"{name}: {len(dialogue.turns) - len(fitting.turns)} turns that end after {self.max_tokens} tokens")
        try:
            spans = answer_spans(self._text(fitting), self.tokenizer, self.template)
        except ValueError as error:
            raise BadExample(f"{name}: {error}") from error
        if spans[0][0] >= self.max_tokens:
            raise BadExample(
                f"{name}: {self._quote(dialogue)} leaves no room for its answer in {self.max_tokens} tokens"
            )
        return fitting

    @staticmethod
    def _quote(dialogue: Dialogue) -> str:
        return f"'{dialogue.turns[0].question[:60]}'"
