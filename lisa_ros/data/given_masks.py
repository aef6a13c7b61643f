"""Masks of one picture from a file of another program: a labels image, an .npz, or COCO's annotations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lisa_ros.data.coco import mask_of, read_coco
from lisa_ros.data.picture import BadExample
from lisa_ros.engine.api import Proposals, crop_mask
from lisa_ros.errors import ConfigError
from lisa_ros.perception.labels import crops_of
from lisa_ros.perception.packed_crops import PackedCrops

Size = tuple[int, int]


def read_masks(file: Path, size: Size) -> Proposals:
    """Read the masks of one picture.

    Args:
        file: A labels image (.png, .tif, .bmp of 8 or 16 bits; each value above 0 is a mask); .npz with ``masks``
            (N, H, W) or ``labels`` (H, W), and perhaps ``scores`` (N,) and ``phrases`` (N,); or COCO's .json of one
            picture. Masks without scores have the score 1.
        size: (height, width) of the picture, pixels.

    Raises:
        ConfigError: The file is missing or damaged, or its masks have another size.
    """
    if not file.is_file():
        raise ConfigError(f"there is no file of masks {file}; give a labels image, an .npz or COCO's .json")
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        raise ConfigError(f"masks cannot be read from {file}; use one of {', '.join(_READERS)}")
    try:
        return reader(file, size)
    except (OSError, ValueError, KeyError, TypeError, BadExample) as error:
        raise ConfigError(f"{file} has no masks of this picture: {' '.join(str(error).split())}") from error


def of_labels(labels: NDArray[Any], size: Size) -> Proposals:
    """One mask for each value above 0 of a labels image, in the order of the values.

    Raises:
        ValueError: The image has another size or another number of dimensions.
    """
    _check(labels.shape, size)
    return Proposals(crops=PackedCrops(crops_of(labels)))


def _check(shape: tuple[int, ...], size: Size) -> None:
    if shape != size:
        found = " x ".join(str(length) for length in shape[::-1])
        raise ValueError(f"the masks are {found} pixels, the picture is {size[1]} x {size[0]}")


def _image(file: Path, size: Size) -> Proposals:
    with Image.open(file) as image:
        if image.mode not in ("L", "P", "I", "I;16", "1"):
            raise ValueError(f"it is a picture of mode {image.mode}; a labels image has one channel of 8 or 16 bits")
        return of_labels(np.array(image), size)


def _npz(file: Path, size: Size) -> Proposals:
    with np.load(file, allow_pickle=False) as arrays:
        if "labels" in arrays:
            return of_labels(arrays["labels"], size)
        masks = arrays["masks"]
        if masks.ndim != 3:
            raise ValueError(f"masks has the shape {masks.shape}; it must be (N, height, width)")
        _check(masks.shape[1:], size)
        scores = np.asarray(arrays["scores"], np.float32) if "scores" in arrays else None
        phrases = tuple(str(name) for name in arrays["phrases"]) if "phrases" in arrays else ()
    for name, values in (("scores", scores), ("phrases", phrases)):
        if values is not None and len(values) not in (0, len(masks)):
            raise ValueError(f"{len(values)} {name} for {len(masks)} masks; give one for each")
    if scores is not None and not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("scores must be in [0, 1]")
    return Proposals(crops=PackedCrops(crop_mask(mask, score=1.0) for mask in masks), scores=scores, phrases=phrases)


def _coco(file: Path, size: Size) -> Proposals:
    coco = read_coco(file)
    if len(coco.of_image) > 1:
        raise ValueError(f"it has annotations of {len(coco.of_image)} pictures; give a file of one")
    annotations = [one for of_image in coco.of_image.values() for one in of_image]
    masks = [mask_of(one, size) for one in annotations]
    phrases = tuple(coco.categories.get(int(one.get("category_id", -1)), "") for one in annotations)
    return Proposals(crops=PackedCrops(crop_mask(mask > 0, score=1.0) for mask in masks), phrases=phrases)


_READERS: dict[str, Callable[[Path, Size], Proposals]] = {
    ".png": _image,
    ".tif": _image,
    ".tiff": _image,
    ".bmp": _image,
    ".npz": _npz,
    ".json": _coco,
}
