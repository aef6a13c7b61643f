"""Qwen3-VL and Qwen2.5-VL in this process, through transformers and without torchvision.

transformers' processor of these models needs torchvision for videos. Tokenizer and image processor do without it; what
the processor adds is one image token for each merged patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from lisa_ros.engine.api import ShouldStop
from lisa_ros.errors import Cancelled, CheckpointError, CommandError, ConfigError
from lisa_ros.grounded.locators.chat import Message, OnPiece, Piece, probability_of_yes
from lisa_ros.grounded.recipe import Part
from lisa_ros.grounded.weights.load import Place, load_model, load_tokenizer_and_image_processor

CLASSES = {"qwen3_vl": "Qwen3VLForConditionalGeneration", "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration"}
IMAGE_TOKEN = "<|image_pad|>"
CANDIDATES = 20
"""First tokens that are searched for yes and no."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that the vision tower has processed.

    Args:
        pixels: Patches, as the image processor gives them.
        grid: (1, 3) int64: time, rows and columns of patches.
        features: What the model's ``get_image_features`` gives.
    """

    pixels: Tensor
    grid: Tensor
    features: Any


class QwenChat:
    """A Qwen-VL with its weights.

    Args:
        model: Of transformers.
        tokenizer: Its tokenizer, with a chat template.
        processor: Its image processor.
        name: For logs and results.
    """

    def __init__(self, model: Any, tokenizer: Any, processor: Any, name: str) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self._processor = processor
        self._image_token = int(model.config.image_token_id)
        self._of_pixels = model.model.get_image_features
        self._pictures: dict[int, Picture] = {}  # of the running call, by the address of their pixels
        model.model.get_image_features = self._known_features

    @classmethod
    def load(cls, part: Part, place: Place) -> QwenChat:
        """Load a Qwen-VL.

        Raises:
            ConfigError: The installed transformers does not have the class.
            CheckpointError: A file is missing or damaged.
            OutOfMemory: The device has too little memory.
        """
        kind = getattr(transformers, CLASSES[part.kind], None)
        if kind is None:
            version = transformers.__version__
            raise ConfigError(f"transformers {version} has no {CLASSES[part.kind]}; pip install -U transformers")
        tokenizer, processor = load_tokenizer_and_image_processor(part)
        if not tokenizer.chat_template:
            raise CheckpointError(f"{part.folder} has no chat template; fetch the model again")
        return cls(load_model(kind, part, place), tokenizer, processor, part.folder.resolve().parent.name)

    @torch.inference_mode()
    def picture(self, rgb: NDArray[np.uint8]) -> Picture:
        """Run the vision tower once, for any number of chats. rgb: uint8 (h, w, 3)."""
        inputs = self._processor(images=[rgb], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        grid = inputs["image_grid_thw"].to(self.model.device)
        return Picture(pixels, grid, self._of_pixels(pixels, grid, return_dict=True))

    @torch.inference_mode()
    def stream(
        self,
        messages: Sequence[Message],
        schema: dict[str, Any] | None,
        max_tokens: int,
        on_piece: OnPiece,
        should_stop: ShouldStop,
    ) -> None:
        """See :meth:`Chat.stream`. The schema is not used: the prompt describes the form, too."""
        inputs = self._inputs(messages, max_tokens)
        follower = _Follower(self.tokenizer, inputs["input_ids"].shape[1], on_piece, should_stop)
        self._generate(messages, inputs, max_tokens, follower)

    @torch.inference_mode()
    def yes_probability(self, message: Message, should_stop: ShouldStop) -> float | None:
        """See :meth:`Chat.yes_probability`."""
        if should_stop():
            raise Cancelled("canceled before the check of a mask")
        inputs = self._inputs([message], 1)
        follower = _Follower(self.tokenizer, inputs["input_ids"].shape[1], lambda piece: False, should_stop)
        self._generate([message], inputs, 1, follower)
        probabilities = torch.softmax(follower.first.float(), dim=-1)
        best = probabilities.topk(min(CANDIDATES, probabilities.numel()))
        tokens: dict[str, float] = {}
        for probability, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            word = self.tokenizer.decode([token])
            tokens[word] = tokens.get(word, 0.0) + probability
        return probability_of_yes(tokens)

    def _generate(
        self, messages: Sequence[Message], inputs: dict[str, Tensor], max_tokens: int, follower: _Follower
    ) -> None:
        own = self.model.generation_config
        # Greedy, and none of the checkpoint's penalties, which are made for chats and punish repeated digits.
        greedy = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=own.eos_token_id if own.eos_token_id is not None else self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        pictures = [message.picture for message in messages if message.picture is not None]
        self._pictures = {picture.pixels.data_ptr(): picture for picture in pictures}
        try:
            self.model.generate(
                **inputs, generation_config=greedy, logits_processor=[follower.scores], stopping_criteria=[follower]
            )
        finally:
            self._pictures = {}

    def _known_features(self, pixel_values: Tensor, image_grid_thw: Tensor | None = None, **options: Any) -> Any:
        """In place of the model's own: the vision tower ran when the picture came."""
        known = self._pictures.get(pixel_values.data_ptr())
        return known.features if known is not None else self._of_pixels(pixel_values, image_grid_thw, **options)

    def _inputs(self, messages: Sequence[Message], max_tokens: int) -> dict[str, Tensor]:
        """Inputs of the model. Raises CommandError for a prompt that is too long."""
        text = self.tokenizer.apply_chat_template(
            [{"role": message.role, "content": _content(message)} for message in messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        pictures = [message.picture for message in messages if message.picture is not None]
        for picture in pictures:
            count = int(picture.grid.prod()) // self._processor.merge_size**2
            text = text.replace(IMAGE_TOKEN, "\0" * count, 1)
        ids = self.tokenizer(text.replace("\0", IMAGE_TOKEN), return_tensors="pt", add_special_tokens=False)[
            "input_ids"
        ]
        limit = self.model.config.text_config.max_position_embeddings
        if ids.shape[1] + max_tokens > limit:
            raise CommandError(
                f"the prompt has {ids.shape[1]} tokens and the answer up to {max_tokens}; {self.name} reads {limit}: "
                "shorten the command, or lower max_side"
            )
        ids = ids.to(self.model.device)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if pictures:
            inputs["mm_token_type_ids"] = (ids == self._image_token).int()
            # One picture a chat, so nothing is joined, and its address stays the key of its features.
            inputs["pixel_values"], inputs["image_grid_thw"] = pictures[0].pixels, pictures[0].grid
        return inputs


class _Follower(StoppingCriteria):
    """Passes every new token on, and stops the generation."""

    def __init__(self, tokenizer: Any, prompt: int, on_piece: OnPiece, should_stop: ShouldStop) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._on_piece = on_piece
        self._should_stop = should_stop
        self._text = ""
        self.scores = _Scores()

    @property
    def first(self) -> Tensor:
        """(V,) logits of the first token."""
        assert self.scores.first is not None, "nothing was generated"
        return self.scores.first

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        if self._should_stop():
            raise Cancelled("canceled while the model generated")
        text = self._tokenizer.decode(input_ids[0, self._prompt :], skip_special_tokens=True)
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # a character of several tokens that is not complete
        new, self._text = text[len(self._text) :], text
        enough = self._on_piece(Piece(new, self.scores.logprob))
        return torch.full((1,), enough, dtype=torch.bool, device=input_ids.device)


class _Scores(LogitsProcessor):
    """Notes the log probability of the token that greedy decoding takes next."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self.logprob = 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.first is None:
            self.first = scores[0]
        self.logprob = float(torch.log_softmax(scores[0].float(), dim=-1).max())
        return scores


def _content(message: Message) -> Any:
    if message.picture is None:
        return message.text
    return [{"type": "image"}, {"type": "text", "text": message.text}]
