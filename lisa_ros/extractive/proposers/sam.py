"""Proposer ``sam``: everything that SAM or SAM 2 draws for a grid of points.

As SAM's automatic mask generator, without its crops: three masks for each point; those stay whose predicted IoU is
high and which hardly change with the threshold; of near copies the best. Kirillov et al., arXiv:2304.02643, section 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Sam2Model, SamModel

from lisa_ros.engine.api import MaskCrop, Proposals
from lisa_ros.engine.options import check_options
from lisa_ros.errors import CheckpointError, ConfigError
from lisa_ros.extractive.overlaps import box_ious, suppress
from lisa_ros.extractive.resize import Matrix, logits_window, placed_crop, sam_matrices, stretched_matrices
from lisa_ros.json_file import read_json_object
from lisa_ros.lisa.model.sam import prompt_config
from lisa_ros.lisa.preprocess import Size, for_sam, normalise_for_sam, resized_size
from lisa_ros.lisa.segmenter import EncodedImage, Segmenter
from lisa_ros.perception.packed_crops import PackedCrops

OFFSET = 1.0
"""By how much the threshold is moved to see how stable a mask is, in logits."""


@dataclass(frozen=True)
class SamOptions:
    """Settings of SAM's automatic mask generator, with its defaults.

    Args:
        model: Folder of SAM or SAM 2 as transformers saves it; empty: the SAM inside the model, whose mask decoder LISA
            has trained on, so that a SAM of its own proposes better.
        points: Points along one side of the grid.
        batch: Points that are decoded at once.
        iou: Least predicted IoU, in [0, 1].
        stability: Least IoU of the masks at two thresholds, in [0, 1].
        nms: IoU of boxes above which the worse one is left out, in [0, 1].
    """

    model: str = ""
    points: int = 32
    batch: int = 64
    iou: float = 0.88
    stability: float = 0.95
    nms: float = 0.7

    def __post_init__(self) -> None:
        if not isinstance(self.model, str):
            raise ConfigError(f"option model is {self.model!r}; give the folder of a SAM")
        for name in ("points", "batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1024:
                raise ConfigError(f"option {name} is {value!r}; give a whole number from 1 to 1024")
        for name in ("iou", "stability", "nms"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"option {name} is {value!r}; give a number in [0, 1]")


class Frame(Protocol):
    """What is proposed for: an encoded frame of any engine."""

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), RGB."""

    @property
    def size(self) -> Size:
        """(height, width), pixels."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A frame that no engine has encoded. rgb: uint8 (H, W, 3), RGB."""

    rgb: NDArray[np.uint8]

    @property
    def size(self) -> Size:
        return self.rgb.shape[0], self.rgb.shape[1]


class Drawer(Protocol):
    """A SAM of any generation: draws masks of one frame from points."""

    def embed(self, image: Frame) -> Any:
        """The image embeddings of a frame."""

    def scaled(self, points: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
        """Points (N, 2) in pixels of the frame to those of the network's input."""

    def draw(self, embeddings: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, M, h, w) and predicted IoU (N, M) of the M masks of each point (N, 2)."""

    def matrices(self, size: Size, side: int) -> tuple[Matrix, Matrix]:
        """From low resolution to the frame along each axis."""


class FirstSam:
    """SAM."""

    def __init__(self, sam: SamModel):
        self._sam = sam
        self._side = cast(int, prompt_config(sam).image_size)

    def embed(self, image: Frame) -> Tensor:
        pixels = torch.from_numpy(for_sam(image.rgb, self._side))[None].to(self._sam.device, self._sam.dtype)
        return self._sam.get_image_embeddings(pixels)

    def scaled(self, points: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
        height, width = resized_size(size, self._side)
        return points * (width / size[1], height / size[0])

    def draw(self, embeddings: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        several = self._sam.mask_decoder.num_multimask_outputs > 0
        parameters = self._sam.mask_decoder.iou_token.weight
        drawn = self._sam(
            image_embeddings=embeddings.to(parameters.dtype),
            input_points=points[None, :, None].to(parameters.device),
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int, device=parameters.device),
            multimask_output=several,
        )
        return drawn.pred_masks[0], drawn.iou_scores[0]

    def matrices(self, size: Size, side: int) -> tuple[Matrix, Matrix]:
        return sam_matrices(size, self._side, side)


class OwnSam(FirstSam):
    """The SAM inside a LISA. It uses the embedding that the frame has already."""

    def __init__(self, segmenter: Segmenter):
        super().__init__(segmenter.lisa.sam)
        self._segmenter = segmenter

    def embed(self, image: Frame) -> Tensor:
        assert isinstance(image, EncodedImage)
        self._segmenter.ensure_embedding(image)
        assert image.features.embedding is not None
        return image.features.embedding


class SecondSam:
    """SAM 2, which sees the frame stretched to a square."""

    def __init__(self, sam: Sam2Model):
        self._sam = sam
        self._side = int(cast(Any, sam.config.prompt_encoder_config).image_size)

    def embed(self, image: Frame) -> list[Tensor]:
        square = Image.fromarray(image.rgb).resize((self._side, self._side), Image.Resampling.BILINEAR)
        pixels = np.empty((3, self._side, self._side), np.float32)
        normalise_for_sam(np.asarray(square), pixels)  # ImageNet's mean and deviation, like SAM
        return list(
            self._sam.get_image_embeddings(torch.from_numpy(pixels)[None].to(self._sam.device, self._sam.dtype))
        )

    def scaled(self, points: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
        return points * (self._side / size[1], self._side / size[0])

    def draw(self, embeddings: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        drawn = self._sam(
            image_embeddings=embeddings,
            input_points=points[None, :, None].to(self._sam.device, self._sam.dtype),
            input_labels=torch.ones(1, len(points), 1, dtype=torch.int, device=self._sam.device),
            multimask_output=True,
        )
        return drawn.pred_masks[0], drawn.iou_scores[0]

    def matrices(self, size: Size, side: int) -> tuple[Matrix, Matrix]:
        return stretched_matrices(size, side)


def load(*, segmenter: Segmenter, options: dict[str, Any]) -> SamEverything:
    """The factory.

    Raises:
        ConfigError: An option cannot be used.
        CheckpointError: The folder has no SAM that transformers can read.
    """
    check_options(options, SamOptions.__dataclass_fields__, "sam")
    settings = SamOptions(**options)
    return SamEverything(drawer_for(settings.model, segmenter), settings)


def drawer_for(model: str, segmenter: Segmenter) -> Drawer:
    """The SAM in a folder, on the segmenter's device; the segmenter's own for an empty text."""
    if not model:
        return OwnSam(segmenter)
    return read_sam(Path(model).expanduser(), segmenter.device, segmenter.lisa.dtype)


def read_sam(folder: Path, device: torch.device, dtype: torch.dtype) -> Drawer:
    """Read SAM or SAM 2 from a folder of transformers. Never touches the network.

    Raises:
        CheckpointError: There is none in it.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"there is no SAM in {folder}; get one with 'lisa fetch facebook/sam-vit-base'")
    kind = read_json_object(folder / "config.json", CheckpointError).get("model_type")
    classes: dict[str, Any] = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
    if kind not in classes:
        raise CheckpointError(f"{folder} is {kind!r}; proposer 'sam' reads SAM and SAM 2")
    try:
        sam = classes[kind].from_pretrained(folder, local_files_only=True, dtype=dtype)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} is no SAM: {' '.join(str(error).split())[:200]}") from error
    sam = sam.to(device).eval().requires_grad_(False)
    return FirstSam(sam) if kind == "sam" else SecondSam(sam)


class SamEverything:
    """The proposer. ``Proposals.scores`` are the predicted IoU.

    Args:
        drawer: The SAM.
        options: Of the generator.
    """

    def __init__(self, drawer: Drawer, options: SamOptions = SamOptions()):
        self._drawer = drawer
        self._options = options

    @torch.inference_mode()
    def propose(self, image: Frame) -> Proposals:
        """Draw the whole grid of points. Takes seconds on a CPU."""
        crops = list(self._drawn(image))
        scores = np.array([crop.score for crop in crops], np.float32)
        boxes = np.array([(crop.x, crop.y, crop.x + crop.width, crop.y + crop.height) for crop in crops], np.float64)
        best = np.argsort(-scores, kind="stable").tolist()
        chosen = suppress(box_ious(boxes.reshape(-1, 4)), best, self._options.nms)
        return Proposals(crops=PackedCrops(crops[index] for index in chosen), scores=scores[chosen])

    def _drawn(self, image: Frame) -> Iterator[MaskCrop]:
        """Masks that are good enough, packed at once: there may be three thousand."""
        options, embeddings = self._options, self._drawer.embed(image)
        points = self._drawer.scaled(grid_points(options.points, image.size), image.size)
        for begin in range(0, len(points), options.batch):
            batch = torch.tensor(points[begin : begin + options.batch], dtype=torch.float32)
            logits, ious = (
                values.float().flatten(0, 1).cpu().numpy() for values in self._drawer.draw(embeddings, batch)
            )
            for index in np.flatnonzero(ious > options.iou):
                crop = self._stable(logits[index], image.size, float(ious[index]))
                if crop is not None:
                    yield crop

    def _stable(self, low_res: Matrix, size: Size, iou: float) -> MaskCrop | None:
        """The mask, unless it is empty or changes with the threshold."""
        matrices = self._drawer.matrices(size, low_res.shape[0])
        left, top, logits = logits_window(low_res, matrices, -OFFSET)
        larger = np.count_nonzero(logits > -OFFSET)
        if not larger or np.count_nonzero(logits > OFFSET) / larger < self._options.stability:
            return None
        crop = placed_crop(logits > 0, left, top, min(max(iou, 0.0), 1.0))
        return crop if crop.area else None


def grid_points(side: int, size: Size) -> NDArray[np.float64]:
    """(side * side, 2): x and y of the centres of equal cells of the frame, pixels, row by row."""
    centres = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(centres * size[1], centres * size[0])
    return np.stack([x.ravel(), y.ravel()], axis=1)
