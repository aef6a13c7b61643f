"""Proposer ``drawn``: the things of the model's own class map, each drawn by its own mask decoder.

A model whose vision tower recognises classes (the demo model) sees a class in each cell of the image embedding. Cells
of one class that hang together are a thing; the prompt of its class and of the place of its middle draws it. The second
class of its cells can be drawn too. All things of a class are one more proposal, their union.

The prompts of classes are not in a checkpoint. They are what ``[SEG]`` says about pictures made of words, without the
place: the language model is asked for each class in turn, in a few places.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lisa_ros.engine.api import MaskCrop, Proposals, Turn
from lisa_ros.engine.options import check_options
from lisa_ros.errors import ConfigError
from lisa_ros.extractive.overlaps import mask_ious, suppress
from lisa_ros.extractive.packed_crops import PackedCrops
from lisa_ros.extractive.resize import crop_logits
from lisa_ros.lisa.model.lisa import Lisa
from lisa_ros.lisa.model.mask_decoder import Window
from lisa_ros.lisa.preprocess import Size
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter
from lisa_ros.lisa.threads import one_thread, wants_one_thread

AT_ONCE = 2
"""Masks that are decoded in one pass. Each needs a copy of the image embedding; more leave the CPU's cache."""

AROUND = 3
"""Cells around a thing, and a third of its own width and height on top, in which its mask is looked for."""

PADDING = 2
"""Cells of the padded square that are looked at beyond the picture."""

NOWHERE = -10.0
"""Logit outside of the part that is decoded."""

PLACINGS, CLASSES_A_PICTURE = 2, 21
"""How often each class is asked for, and how many classes a picture made of words has."""


@runtime_checkable
class ClassMap(Protocol):
    """A vision tower that recognises classes in the cells of the image embedding, and has words for them."""

    grid: int

    def class_map(self, image_embedding: Tensor) -> Tensor:
        """Image embedding (1, C, g, g) to probabilities (1 + classes, g, g), background first."""

    def showing(self, labels: Sequence[int], cells: Sequence[int]) -> Tensor:
        """Features (grid * grid, mm_hidden) of a picture made of words that has one thing of each of ``labels`` (from
        0), in one of ``cells`` each, counted row by row."""


@dataclass(frozen=True)
class DrawnOptions:
    """Which things are drawn.

    Args:
        smallest: Least number of cells of a thing, from 1.
        second: Mean probability from which the second class of a thing's cells is drawn too; 1: never. It adds about
            0.002 of mean IoU, for a fifth more time with 0.1.
        kinds: Whether all things of a class are one more proposal, where there are several.
        nms: IoU with an earlier one above which a mask is left out, in [0, 1].
    """

    smallest: int = 1
    second: float = 1.0
    kinds: bool = True
    nms: float = 0.85

    def __post_init__(self) -> None:
        if isinstance(self.smallest, bool) or not isinstance(self.smallest, int) or self.smallest < 1:
            raise ConfigError(f"option smallest is {self.smallest!r}; give a whole number of cells, from 1")
        for name, value in (("second", self.second), ("nms", self.nms)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
                raise ConfigError(f"option {name} is {value!r}; give a number above 0, at most 1")
        if not isinstance(self.kinds, bool):
            raise ConfigError(f"option kinds is {self.kinds!r}; give true or false")


@dataclass(frozen=True)
class _Thing:
    """What is drawn.

    Args:
        label: Index of its class.
        place: (x, y) of its middle, in [0, 1] of the square.
        box: Top, left, bottom and right (exclusive) of its cells.
    """

    label: int
    place: tuple[float, float]
    box: Window


@dataclass(frozen=True, eq=False)
class _Drawing:
    """label: index of its class. prompt: (C,). logits: (4g, 4g), of the padded square. kind: All things of a class."""

    label: int
    prompt: Tensor
    logits: NDArray[np.float32]
    kind: bool = False


def load(*, segmenter: Segmenter, options: dict[str, Any]) -> Drawn:
    """The factory. Raises ConfigError for other models and for options that cannot be used."""
    check_options(options, DrawnOptions.__dataclass_fields__, "drawn")
    return Drawn(segmenter, DrawnOptions(**options))


class Drawn:
    """The proposer. ``Proposals.embeddings`` are the mask prompts (N, C), ``phrases`` the classes.

    Args:
        segmenter: With the demo model, or one of its kind.
        options: Which things are drawn.
        class_prompts: (classes, C) float32, without a place; None: the model is asked for them. A model whose language
            was trained on brings those of the model before.

    Attributes:
        class_prompts: (classes, C) float32, without a place.

    Raises:
        ConfigError: The model has no class map, or its classes have no names.
    """

    def __init__(
        self, segmenter: Segmenter, options: DrawnOptions = DrawnOptions(), class_prompts: Tensor | None = None
    ):
        tower = segmenter.lisa.vision_tower
        if not isinstance(tower, ClassMap):
            raise ConfigError(
                f"proposer 'drawn' needs a model with a map of classes, which {segmenter.name} lacks; use proposer "
                "'sam' or 'given'"
            )
        if not segmenter.spec.classes:
            raise ConfigError(f"proposer 'drawn' needs the names of classes; {segmenter.name} has no classes.json")
        self._segmenter = segmenter
        self._lisa = segmenter.lisa
        self._tower = tower
        self._options = options
        self._one_thread = wants_one_thread(self._lisa.llama.config.hidden_size, self._lisa.device)
        if class_prompts is None:
            with one_thread(self._one_thread):
                class_prompts = ask_for_prompts(segmenter, tower)
        self.class_prompts = class_prompts.to(segmenter.device, torch.float32)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of ``class_prompts``."""
        return self._segmenter.spec.classes

    @torch.inference_mode()
    def propose(self, image: EncodedImage) -> Proposals:
        """Draw the things of the frame's class map."""
        embedding = image.features.embedding
        if embedding is None:  # the model of this proposer encodes it with the frame
            raise ValueError("the frame has no image embedding")
        with one_thread(self._one_thread):
            probabilities = self._tower.class_map(embedding).float().cpu().numpy()  # (1 + classes, g, g)
            things = find_things(probabilities, self._options)
            drawings = self._draw(embedding, image.size, things)
            if self._options.kinds:
                drawings += self._kinds(drawings)
            masks = np.array([drawing.logits > 0 for drawing in drawings])
            chosen = [drawings[index] for index in suppress(mask_ious(masks), range(len(masks)), self._options.nms)]
            crops = [self._crop(drawing, image.size) for drawing in chosen]
        prompts = [drawing.prompt.float().cpu().numpy() for drawing in chosen]
        return Proposals(
            crops=PackedCrops(crops),
            embeddings=np.array(prompts, np.float32).reshape(len(chosen), self.class_prompts.shape[1]),
            scores=np.array([crop.score for crop in crops], np.float32),
            phrases=tuple(self.classes[drawing.label] for drawing in chosen),
        )

    def _draw(self, embedding: Tensor, size: Size, things: list[_Thing]) -> list[_Drawing]:
        """Each thing by the prompt of its class and of its place."""
        if not things:
            return []
        places = torch.tensor([thing.place for thing in things], device=embedding.device)
        prompts = self.class_prompts[[thing.label for thing in things]] + _place(self._lisa, places)  # (N, C)
        side = embedding.shape[-1]
        height, width = (min(-(-length * side // max(size)) + PADDING, side) for length in size)
        windows = [_around(thing.box, height, width) for thing in things]
        low_res = np.full((len(things), 4 * side, 4 * side), NOWHERE, np.float32)
        for begin in range(0, len(things), AT_ONCE):
            part = slice(begin, begin + AT_ONCE)
            decoded = self._lisa.decode_windows(prompts[part], embedding[..., :height, :width], windows[part])
            for canvas, (top, left, bottom, right), logits in zip(low_res[part], windows[part], decoded, strict=True):
                canvas[4 * top : 4 * bottom, 4 * left : 4 * right] = logits.float().cpu().numpy()
        return [
            _Drawing(thing.label, *each) for thing, each in zip(things, zip(prompts, low_res, strict=True), strict=True)
        ]

    def _kinds(self, drawings: list[_Drawing]) -> list[_Drawing]:
        """All things of a class as one, for each class that has several."""
        counts = Counter(drawing.label for drawing in drawings)
        return [
            _Drawing(
                label,
                self.class_prompts[label],
                np.maximum.reduce([drawing.logits for drawing in drawings if drawing.label == label]),
                kind=True,
            )
            for label, count in counts.items()
            if count > 1
        ]

    def _crop(self, drawing: _Drawing, size: Size) -> MaskCrop:
        """The drawing in pixels of the frame; of a kind, also things that are small beside the largest."""
        smallest_part = 0.0 if drawing.kind else self._segmenter.spec.smallest_part
        return crop_logits(drawing.logits, size, self._lisa.input_size, smallest_part)


def find_things(probabilities: NDArray[np.float32], options: DrawnOptions) -> list[_Thing]:
    """The things of a map of classes (1 + classes, g, g), background first, then the second classes."""
    side = probabilities.shape[1]
    labels = probabilities.argmax(axis=0)
    things, second = [], []
    for label in np.unique(labels[labels > 0]):
        count, parts, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8), connectivity=8)
        for part in range(1, count):
            if stats[part, cv2.CC_STAT_AREA] < options.smallest:
                continue
            inside = parts == part
            left, top, width, height = (int(value) for value in stats[part, : cv2.CC_STAT_AREA])
            place, box = _middle(inside, side), (top, left, top + height, left + width)
            things.append(_Thing(int(label) - 1, place, box))
            shares = probabilities[1:, inside].mean(axis=1)
            shares[label - 1] = 0.0
            if shares.max() >= options.second:
                second.append(_Thing(int(shares.argmax()), place, box))
    return things + second


def _around(box: Window, height: int, width: int) -> Window:
    """``box`` with room around it, inside of (height, width)."""
    top, left, bottom, right = box
    down, across = AROUND + (bottom - top) // 3, AROUND + (right - left) // 3
    return max(top - down, 0), max(left - across, 0), min(bottom + down, height), min(right + across, width)


@torch.inference_mode()
def ask_for_prompts(segmenter: Segmenter, tower: ClassMap) -> Tensor:
    """The prompt of each class, (classes, C) float32, by asking about pictures made of words.

    A picture has some classes in cells far from each other. The prompt of the thing that is asked for is that of its
    class and of the middle of its cell; the mean over several places is left when the place is subtracted.
    """
    lisa, names, grid = segmenter.lisa, segmenter.spec.classes, tower.grid
    cells = [row * grid + column for row in range(1, grid - 1, 2) for column in range(1, grid - 1, 2)]
    size = min(CLASSES_A_PICTURE, len(cells))
    centres = torch.tensor([((cell % grid + 0.5) / grid, (cell // grid + 0.5) / grid) for cell in range(grid**2)])
    places = _place(lisa, centres.to(lisa.device))
    prompts: list[list[Tensor]] = [[] for _ in names]
    chance, labels = random.Random(0), list(range(len(names)))
    for _ in range(PLACINGS):
        chance.shuffle(labels)
        for begin in range(0, len(labels), size):
            shown = labels[begin : begin + size]
            placed = chance.sample(cells, len(shown))
            tokens, cache = lisa.image_projector(tower.showing(shown, placed))[None], segmenter.empty_cache()
            for label, cell in zip(shown, placed, strict=True):
                turn = Turn(f"the {names[label]}", f"It is the {names[label]}, [SEG].")
                prompts[label].append(segmenter.mask_prompts(tokens, turn, cache)[0].float() - places[cell])
    return torch.stack([torch.stack(each).mean(dim=0) for each in prompts])


def _place(lisa: Lisa, points: Tensor) -> Tensor:
    """SAM's encoding (N, C) float32 of points (N, 2), x and y in [0, 1] of the square."""
    encoding = lisa.sam.shared_image_embedding
    placed: Tensor = encoding(points.to(encoding.positional_embedding.dtype)).float()
    return placed


def _middle(mask: NDArray[np.bool_], side: int) -> tuple[float, float]:
    """(x, y) in [0, 1] of the covered cell next to the mask's middle, which itself may be bare, as in a ring."""
    rows, columns = np.nonzero(mask)
    nearest = int(np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2))
    return (float(columns[nearest]) + 0.5) / side, (float(rows[nearest]) + 0.5) / side
