"""Grounding DINO and MM-Grounding-DINO: boxes for a noun phrase (2303.05499, 2401.02361)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import Ask, ShouldStop
from lisa_ros.grounded.finds import Find, Located, OnFind, OnWords, Size
from lisa_ros.grounded.locators.phrases import PhraseLocator, check_length, check_stop, phrase_of, told_once
from lisa_ros.grounded.recipe import Options, Part
from lisa_ros.grounded.weights.load import Place, load_model, load_tokenizer_and_image_processor

CLASSES = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
}


@dataclass(frozen=True, eq=False)
class View:
    """A frame as the image processor gives it. size: (height, width) of the camera image."""

    pixels: Tensor
    mask: Tensor
    size: Size


class DetectorLocator(PhraseLocator):
    """A detector with its weights.

    Args:
        model: Of transformers.
        processor: Its processor.
        name: For logs and results.
        box_threshold: Least score of a box.
        text_threshold: Least score of a word of the phrase, for the label.
        max_objects: Most finds.
    """

    def __init__(
        self, model: Any, processor: Any, name: str, box_threshold: float, text_threshold: float, max_objects: int
    ) -> None:
        self.model = model
        self.name = name
        self._processor = processor
        self._box_threshold, self._text_threshold = box_threshold, text_threshold
        self._max_objects = max_objects

    @classmethod
    def load(cls, part: Part, place: Place, options: Options) -> DetectorLocator:
        """Load a detector. Raises CheckpointError and OutOfMemory."""
        tokenizer, images = load_tokenizer_and_image_processor(part)
        processor = transformers.GroundingDinoProcessor(images, tokenizer)
        model = load_model(getattr(transformers, CLASSES[part.kind]), part, place)
        name = "MM-Grounding-DINO" if part.kind.startswith("mm") else "Grounding DINO"
        return cls(model, processor, name, options.box_threshold, options.text_threshold, options.max_objects)

    def view(self, rgb: NDArray[np.uint8]) -> View:
        """See :meth:`Locator.view`."""
        inputs = self._processor.image_processor(images=[rgb], return_tensors="pt")
        pixels = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        return View(pixels, inputs["pixel_mask"].to(self.model.device), rgb.shape[:2])

    @torch.inference_mode()
    def locate(self, view: View, ask: Ask, on_find: OnFind, on_words: OnWords, should_stop: ShouldStop) -> Located:
        """See :meth:`Locator.locate`."""
        phrase = phrase_of(ask)
        text = self._processor.tokenizer(f"{phrase}.", return_tensors="pt").to(self.model.device)
        check_length(phrase, text["input_ids"].shape[1], self.model.config.text_config.max_position_embeddings)
        check_stop(should_stop)
        outputs = self.model(pixel_values=view.pixels, pixel_mask=view.mask, **text)
        found = self._processor.post_process_grounded_object_detection(
            outputs,
            text["input_ids"],
            threshold=self._box_threshold,
            text_threshold=self._text_threshold,
            target_sizes=[view.size],
        )[0]
        height, width = view.size
        boxes = found["boxes"].double().cpu().numpy().clip(0, [width, height, width, height])  # (N, 4)
        scores = found["scores"].tolist()
        for index in told_once(boxes, scores, min(self._max_objects, ask.mask_limit)):
            x1, y1, x2, y2 = boxes[index].tolist()
            if x2 - x1 >= 1 and y2 - y1 >= 1:
                on_find(
                    Find(
                        self._label(found["text_labels"][index]) or phrase,
                        (x1, y1, x2, y2),
                        probability=min(max(scores[index], 0.0), 1.0),
                    )
                )
        return Located()

    def _label(self, text: str) -> str:
        """The words of the phrase that a box answers to; they may be fewer than the phrase has."""
        specials = self._processor.tokenizer.all_special_tokens
        return " ".join(word for word in text.replace(".", " ").split() if word not in specials)
