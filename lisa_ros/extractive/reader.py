"""What reads a picture and a conversation for the extractive engine, and its LLaVA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import Proposals
from lisa_ros.errors import CommandError
from lisa_ros.extractive.encoders import MaskEncoder, planes, pooled
from lisa_ros.extractive.model.llava import Elisa
from lisa_ros.extractive.model.vocabulary import GrownVocabulary
from lisa_ros.extractive.words import Message, Words
from lisa_ros.lisa.model.cache import PrefixCache
from lisa_ros.lisa.model.clip import num_patches
from lisa_ros.lisa.preprocess import for_clip
from lisa_ros.lisa.prompt import QuestionForms
from lisa_ros.lisa.weights.spec import ClipFolder

REQUEST = "Output the segmentation mask for the object in the image"
QUESTIONS = QuestionForms(sentence=f"{{}} {REQUEST}", phrase=f"{{}} {REQUEST}", explain=f"{{}} {REQUEST}")
"""ELISA explains every answer, so there is no other sentence for it."""


@dataclass(eq=False)
class Seen:
    """What a model sees of a frame.

    Args:
        tokens: (1, K, H) image tokens for the language model.
        features: What proposals are described by; each reader has its own.
    """

    tokens: Tensor
    features: Tensor


class Vocabulary(Protocol):
    """The words and the proposals of one picture."""

    first: int

    @property
    def end(self) -> int:
        """Id behind the last proposal."""

    def logits(self, hidden: Tensor) -> Tensor:
        """States (L, H) to logits (L, V + N)."""


class Reader(Protocol):
    """A language model that sees a picture and can name its proposals. The engine's loop needs nothing else."""

    name: str
    questions: QuestionForms
    reads_mask_words: bool
    """Whether mask words in a question mean something to the model."""

    @property
    def device(self) -> torch.device: ...

    @property
    def hidden_size(self) -> int: ...

    @property
    def max_positions(self) -> int: ...

    @property
    def end_id(self) -> int:
        """Id that ends an answer."""

    def see(self, rgb: NDArray[np.uint8]) -> Seen:
        """Look at a frame uint8 (H, W, 3)."""

    def vocabulary(self, rgb: NDArray[np.uint8], seen: Seen, proposals: Proposals) -> Vocabulary:
        """The words and the proposals of a frame. Raises CommandError where the proposals cannot be described."""

    def prompt(self, messages: Sequence[Message], proposals: int) -> list[int]:
        """Ids of a conversation in the grown vocabulary, IMAGE_ID for each image token."""

    def pieces(self, ids: Sequence[int], proposals: int) -> tuple[list[str], list[int]]:
        """An answer as M + 1 texts, and the M proposals between them."""

    def new_cache(self) -> PrefixCache: ...

    def read(self, ids: Tensor, vocabulary: Vocabulary, tokens: Tensor | None, cache: PrefixCache) -> Tensor:
        """Hidden states (L, H) of ids (L,) that follow those in the cache. tokens: (K, H) of the ids' image tokens."""


class LlavaReader:
    """ELISA's reader: a LLaVA whose word table grows.

    Args:
        model: With weights.
        words: Tokenizer and chat template.
        clip: Preprocessing of the vision tower.
        encoder: Describes proposals that come without embeddings; None: the tower's own features under the mask.
        name: Of the model.
    """

    questions = QUESTIONS
    reads_mask_words = True

    def __init__(self, model: Elisa, words: Words, clip: ClipFolder, encoder: MaskEncoder | None, name: str):
        self.model = model
        self.words = words
        self.name = name
        self._clip = clip
        self._encoder = encoder
        with_class = model.config.vision_feature_select_strategy != "default"
        self.num_image_tokens = num_patches(clip.config) + with_class

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def hidden_size(self) -> int:
        return int(self.model.text_config.hidden_size)

    @property
    def max_positions(self) -> int:
        return self.model.max_positions

    @property
    def end_id(self) -> int:
        return self.words.end_id

    def pixels(self, rgb: NDArray[np.uint8]) -> Tensor:
        """Input (1, 3, size, size) of the vision tower, for a frame uint8 (H, W, 3)."""
        pixels = torch.from_numpy(for_clip(rgb, self._clip.preprocessing))[None]
        return pixels.to(self.device, self.model.dtype)

    def see(self, rgb: NDArray[np.uint8]) -> Seen:
        features, tokens = self.model.see(self.pixels(rgb))
        return Seen(tokens, features[0])

    def vocabulary(self, rgb: NDArray[np.uint8], seen: Seen, proposals: Proposals) -> GrownVocabulary:
        embeddings = self.embeddings(rgb, proposals, seen).to(self.device, torch.float32)
        size = len(self.model.adapter.mean)
        if embeddings.shape[1] != size:
            source = (
                "the proposals' embeddings" if proposals.embeddings is not None else "the mask encoder's embeddings"
            )
            raise CommandError(
                f"{source} have {embeddings.shape[1]} numbers, the adapter of {self.name} reads {size}; give those of "
                "the encoder that it was trained with (AlphaCLIP: option alpha_clip)"
            )
        rows = self.model.adapter(embeddings)
        return self.model.vocabulary(rows.to(self.model.dtype))

    def prompt(self, messages: Sequence[Message], proposals: int) -> list[int]:
        return self.words.prompt(messages, proposals, self.num_image_tokens)

    def pieces(self, ids: Sequence[int], proposals: int) -> tuple[list[str], list[int]]:
        return self.words.pieces(ids, proposals)

    def new_cache(self) -> PrefixCache:
        return self.model.new_cache()

    def read(self, ids: Tensor, vocabulary: Vocabulary, tokens: Tensor | None, cache: PrefixCache) -> Tensor:
        assert isinstance(vocabulary, GrownVocabulary)
        return self.model.read(self.model.embed(ids, vocabulary, tokens)[None], cache)[0]

    def embeddings(self, rgb: NDArray[np.uint8], proposals: Proposals, seen: Seen | None = None) -> Tensor:
        """Embeddings (N, D) of proposals: those that they bring, or else of the mask encoder.

        Args:
            rgb: uint8 (H, W, 3).
            proposals: Of the frame.
            seen: What :meth:`see` returned; None: the tower looks again, if it is needed.
        """
        if proposals.embeddings is not None:
            return torch.from_numpy(np.ascontiguousarray(proposals.embeddings, dtype=np.float32))
        if not len(proposals):
            return torch.zeros(0, len(self.model.adapter.mean))
        masks = planes(proposals, (rgb.shape[0], rgb.shape[1]))
        if self._encoder is not None:
            return self._encoder.encode(rgb, masks)
        return pooled((seen or self.see(rgb)).features, masks, self._clip.preprocessing)
