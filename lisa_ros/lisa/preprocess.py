"""From camera pixels to the inputs of CLIP and SAM. numpy and Pillow only.

Pillow, not OpenCV: the checkpoints were trained with Pillow's antialiased BILINEAR and BICUBIC, and only Pillow gives
the same bits. A size is always (height, width) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Size = tuple[int, int]


def resized_size(size: Size, longest: int) -> Size:
    """Size with the longest side at ``longest`` pixels (SAM's ResizeLongestSide).

    Args:
        size: (height, width), pixels.
        longest: Pixels.

    Returns:
        (height, width), pixels; each at least 1.
    """
    height, width = size
    scale = longest * 1.0 / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def for_sam(rgb: NDArray[np.uint8], input_size: int) -> NDArray[np.float32]:
    """Input of SAM's image encoder: longest side resized, normalised, padded with zeros on the right and below.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        input_size: Side of the square, pixels.

    Returns:
        (3, input_size, input_size) float32.
    """
    resized = resize_longest(rgb, input_size)
    pixels = np.zeros((3, input_size, input_size), np.float32)
    normalise_for_sam(resized, pixels[:, : resized.shape[0], : resized.shape[1]])
    return pixels


def resize_longest(rgb: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Resize an image with Pillow's antialiased bilinear.

    Args:
        rgb: uint8 (H, W, 3).
        longest: Longest side of the result, pixels.

    Returns:
        uint8 (h, w, 3).
    """
    height, width = resized_size(rgb.shape[:2], longest)
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))


def normalise_for_sam(rgb: NDArray[np.uint8], pixels: NDArray[np.float32]) -> None:
    """Normalise an image as SAM's input.

    Args:
        rgb: uint8 (H, W, 3).
        pixels: float32 (3, H, W), the output.
    """
    values = np.arange(256, dtype=np.float32)
    for channel in range(3):
        # 256 values, so a table: the same float32 operations as per pixel, done once.
        table = (values - np.float32(SAM_MEAN[channel])) / np.float32(SAM_STD[channel])
        np.take(table, rgb[:, :, channel], out=pixels[channel], mode="clip")


@dataclass(frozen=True)
class ClipPreprocessing:
    """Settings of a CLIP tower, from its preprocessor_config.json.

    Args:
        size: Shortest side after resizing, pixels.
        crop: Side of the centre crop, pixels.
        mean: Of each channel, for values in [0, 1].
        std: Of each channel, for values in [0, 1].
    """

    size: int = 224
    crop: int = 224
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD


def for_clip(rgb: NDArray[np.uint8], settings: ClipPreprocessing) -> NDArray[np.float32]:
    """Input of CLIP: shortest side resized, centre crop, scaled to [0, 1], normalised.

    Args:
        rgb: uint8 (H, W, 3), RGB.
        settings: Of the CLIP tower.

    Returns:
        (3, crop, crop) float32.
    """
    height, width = rgb.shape[:2]
    if height <= width:
        height, width = settings.size, int(settings.size * width / height)
    else:
        height, width = int(settings.size * height / width), settings.size
    top, left = (height - settings.crop) // 2, (width - settings.crop) // 2
    # Only the crop is resampled; resizing the whole of an image with an extreme aspect ratio would need gigabytes.
    resized = _resize_window(rgb, (height, width), (top, left, top + settings.crop, left + settings.crop))
    values = (np.arange(256) * (1 / 255)).astype(np.float32)
    pixels = np.empty((3, settings.crop, settings.crop), np.float32)
    for channel in range(3):
        table = (values - np.float32(settings.mean[channel])) / np.float32(settings.std[channel])
        np.take(table, resized[:, :, channel], out=pixels[channel], mode="clip")
    return pixels


def _resize_window(rgb: NDArray[np.uint8], size: Size, window: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    height, width = size
    top, left, bottom, right = window
    image = Image.fromarray(rgb)
    if height * width > 64 * (bottom - top) * (right - left):
        scale_x, scale_y = image.width / width, image.height / height
        box = (left * scale_x, top * scale_y, right * scale_x, bottom * scale_y)
        return np.asarray(image.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box=box))
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, right, bottom)))
