"""CLIPSeg: one mask for a noun phrase, without instances (2112.10003). It locates and cuts at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import Ask, ShouldStop
from lisa_ros.grounded.finds import Find, Located, OnFind, OnWords, Size
from lisa_ros.grounded.locators.phrases import PhraseLocator, check_length, check_stop, phrase_of
from lisa_ros.grounded.recipe import Options, Part
from lisa_ros.grounded.weights.load import Place, load_model, load_tokenizer_and_image_processor


@dataclass(frozen=True, eq=False)
class View:
    """A frame as the image processor gives it. size: (height, width) of the camera image."""

    pixels: Tensor
    size: Size


class ClipSegLocator(PhraseLocator):
    """A CLIPSeg with its weights.

    Args:
        model: Of transformers.
        tokenizer: Its tokenizer.
        images: Its image processor.
        threshold: Probability from which a pixel belongs to the mask.
    """

    name = "CLIPSeg"

    def __init__(self, model: Any, tokenizer: Any, images: Any, threshold: float) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._images = images
        self._threshold = math.log(threshold / (1 - threshold)) if threshold > 0 else -math.inf

    @classmethod
    def load(cls, part: Part, place: Place, options: Options) -> ClipSegLocator:
        """Load a CLIPSeg. Raises CheckpointError and OutOfMemory."""
        tokenizer, images = load_tokenizer_and_image_processor(part)
        model = load_model(transformers.CLIPSegForImageSegmentation, part, place)
        return cls(model, tokenizer, images, options.box_threshold)

    def view(self, rgb: NDArray[np.uint8]) -> View:
        """See :meth:`Locator.view`."""
        pixels = self._images(images=[rgb], return_tensors="pt")["pixel_values"]
        return View(pixels.to(self.model.device, self.model.dtype), rgb.shape[:2])

    @torch.inference_mode()
    def locate(self, view: View, ask: Ask, on_find: OnFind, on_words: OnWords, should_stop: ShouldStop) -> Located:
        """See :meth:`Locator.locate`."""
        phrase = phrase_of(ask)
        text = self._tokenizer([phrase], return_tensors="pt").to(self.model.device)
        check_length(phrase, text["input_ids"].shape[1], self.model.config.text_config.max_position_embeddings)
        check_stop(should_stop)
        logits = self.model(pixel_values=view.pixels, **text).logits.float()
        side = logits.shape[-1]
        logits = F.interpolate(logits.reshape(1, 1, side, side), view.size, mode="bilinear", align_corners=False)[0, 0]
        best = float(logits.max())
        if best > self._threshold:
            # The engine's masks are where logits are above 0.
            shifted = (logits - self._threshold).cpu().numpy()
            on_find(Find(phrase, probability=1 / (1 + math.exp(-best)), logits=shifted))
        return Located()
