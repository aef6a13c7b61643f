"""Picture files of any kind, read as a person sees them."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lisa_ros.errors import ImageError

STDIN = "-"


def read_photo(source: str) -> NDArray[np.uint8]:
    """A picture file (``-``: standard input) as uint8 (H, W, 3) RGB.

    The camera's orientation (EXIF) is applied. Transparent pixels show white. 16 bits of grey are scaled from their
    whole range, as the node does it with mono16. Of an animation the first frame. Raises ImageError.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's warning about large pictures: it refuses by itself those that are too large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(sys.stdin.buffer.read()) if source == STDIN else Path(source)) as image:
                return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise ImageError(f"there is no file {source}") from error
    except IsADirectoryError as error:
        raise ImageError(f"{source} is a folder; name one picture in it") from error
    except PermissionError as error:
        raise ImageError(f"{source} may not be read by this user") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{source} has too many pixels ({error}); shrink it first") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = "it is not a picture of a known format" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ImageError(f"{source} cannot be read: {reason}; JPEG, PNG, WebP, TIFF and BMP work") from error


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image))
    if image.mode == "F":
        raise ImageError("the picture has floating-point pixels; convert it to 8 or 16 bits a channel first")
    if image.mode.upper() in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _from_16_bits(grey: NDArray) -> NDArray[np.uint8]:
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(f"the picture has values from {grey.min()} to {grey.max()}; convert it to 8 or 16 bits first")
    scaled = np.round(grey * (255.0 / 65535.0)).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)
