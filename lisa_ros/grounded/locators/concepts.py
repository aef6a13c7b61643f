"""SAM 3: masks of all instances of a concept, a short noun phrase (2511.16719). It locates and cuts at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, ShouldStop
from lisa_ros.errors import ConfigError
from lisa_ros.grounded.cutters.sam import HALF, Input
from lisa_ros.grounded.finds import Find, Located, OnFind, OnWords, Size
from lisa_ros.grounded.locators.phrases import PhraseLocator, check_length, check_stop, phrase_of
from lisa_ros.grounded.recipe import Options, Part
from lisa_ros.grounded.weights.load import Place, load_model, load_tokenizer

TOKENS = 32
"""Of a concept, as SAM 3 was trained."""


@dataclass(frozen=True, eq=False)
class View:
    """What SAM 3's vision encoder gives. size: (height, width) of the camera image."""

    features: Any
    size: Size


class ConceptLocator(PhraseLocator):
    """A SAM 3 with its weights.

    Args:
        model: Of transformers.
        tokenizer: Its tokenizer.
        threshold: Least score of an instance: its own probability times that of the concept's presence.
        max_objects: Most finds.
    """

    name = "SAM 3"

    def __init__(self, model: Any, tokenizer: Any, threshold: float, max_objects: int) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._threshold = threshold
        self._max_objects = max_objects
        self.input = Input(int(model.config.vision_config.backbone_config.image_size), HALF, HALF)

    @classmethod
    def load(cls, part: Part, place: Place, options: Options) -> ConceptLocator:
        """Load a SAM 3. Raises ConfigError for an old transformers, CheckpointError and OutOfMemory."""
        kind = getattr(transformers, "Sam3Model", None)
        if kind is None:
            raise ConfigError(f"transformers {transformers.__version__} has no Sam3Model; pip install -U transformers")
        tokenizer = load_tokenizer(part)
        return cls(load_model(kind, part, place), tokenizer, options.box_threshold, options.max_objects)

    @torch.inference_mode()
    def view(self, rgb: NDArray[np.uint8]) -> View:
        """See :meth:`Locator.view`."""
        pixels = torch.from_numpy(self.input.pixels(rgb))[None].to(self.model.device, self.model.dtype)
        return View(self.model.get_vision_features(pixels), rgb.shape[:2])

    @torch.inference_mode()
    def locate(self, view: View, ask: Ask, on_find: OnFind, on_words: OnWords, should_stop: ShouldStop) -> Located:
        """See :meth:`Locator.locate`."""
        phrase = phrase_of(ask)
        check_length(phrase, len(self._tokenizer(phrase)["input_ids"]), TOKENS)
        text = self._tokenizer(phrase, return_tensors="pt", padding="max_length", max_length=TOKENS)
        check_stop(should_stop)
        outputs = self.model(
            vision_embeds=view.features,
            input_ids=text["input_ids"].to(self.model.device),
            attention_mask=text["attention_mask"].to(self.model.device),
        )
        scores = outputs.pred_logits[0].float().sigmoid()  # (Q,)
        if outputs.presence_logits is not None:
            scores = scores * outputs.presence_logits[0].float().sigmoid()
        best = scores.argsort(descending=True)[: min(self._max_objects, ask.mask_limit)]
        for index in best[scores[best] > self._threshold].tolist():
            mask = outputs.pred_masks[0, index].float()[None, None]
            logits = F.interpolate(mask, view.size, mode="bilinear", align_corners=False)[0, 0]
            on_find(Find(phrase, probability=float(scores[index]), logits=logits.cpu().numpy()))
        return Located()
