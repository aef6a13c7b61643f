"""Reading of picture files: EXIF orientation, transparency and 16-bit grey become plain RGB."""

from __future__ import annotations

import io
import re
import sys
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lisa_ros.errors import ImageError

STDIN = "-"


def read_photo(source: str) -> NDArray[np.uint8]:
    """Read a picture.

    The EXIF orientation is applied. Transparent pixels become white. 16-bit grey is scaled from [0, 65535], as the node
    scales mono16. Of an animation, the first frame is read.

    Args:
        source: Path of a file, or ``-`` for standard input.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: The file is missing, unreadable, damaged or too large.
    """
    if source == STDIN:
        return _read(io.BytesIO(sys.stdin.buffer.read()), source)
    return _read(Path(source), source)


def read_picture_file(file: Path) -> NDArray[np.uint8]:
    """As :func:`read_photo`, for a file of any name."""
    return _read(file, str(file))


def _read(source: Path | io.BytesIO, name: str) -> NDArray[np.uint8]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of large pictures, and refuses by itself those that are too large.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                return rgb_of(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(f"{name} cannot be used: {error}") from error
    except FileNotFoundError as error:
        raise ImageError(_missing(name)) from error
    except IsADirectoryError as error:
        if (Path(name) / "config.json").is_file():
            raise ImageError(f"{name} is a model's folder; name it with --model, and give a picture first") from error
        raise ImageError(f"{name} is a folder; name one picture in it") from error
    except PermissionError as error:
        raise ImageError(f"{name} cannot be read by this user; change its permissions") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels ({error}); shrink it first") from error
    except Exception as error:  # what Pillow raises for damaged files has no common type
        reason = "its format is not known" if isinstance(error, Image.UnidentifiedImageError) else error
        heic = Path(name).suffix.lower() in (".heic", ".heif")
        remedy = "convert HEIC to JPEG or PNG first" if heic else "JPEG, PNG, WebP, TIFF and BMP work"
        raise ImageError(f"{name} cannot be read: {reason}; {remedy}") from error


def _missing(name: str) -> str:
    if Path(name).is_symlink():
        return f"{name} is a link to a file that is gone; make the link again, or name the picture itself"
    if name.startswith(("http://", "https://", "hf://")):
        return f"{name} is not a file on this machine; download the picture first"
    repository = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)
    if repository and not Path(name).suffix[1:].isalpha() and not Path(name).parent.is_dir():
        return (
            f"there is no file {name}; if it is a model, name it with --model, after 'lisa fetch {name}', and give a "
            "picture before the command"
        )
    return f"there is no file {name}; check the name"


def rgb_of(image: Image.Image) -> NDArray[np.uint8]:
    """RGB pixels of a Pillow image of any mode. Files, data sets and compressed messages all use this function.

    Transparent pixels become white. 16-bit grey is scaled from [0, 65535], as the node scales mono16.

    Args:
        image: Of any mode of Pillow.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        ImageError: Floating-point pixels, or whole numbers beyond 16 bits.
        OSError: The image is cut off or damaged (Pillow's own error).
    """
    if image.mode.startswith("I"):
        return _from_16_bits(np.asarray(image))
    if image.mode == "F":
        raise ImageError("the picture has floating-point pixels; convert it to 8 or 16 bits per channel first")
    if image.mode.upper() in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_16_bits(grey: NDArray) -> NDArray[np.uint8]:
    if grey.min() < 0 or grey.max() > 65535:
        raise ImageError(f"the picture has values from {grey.min()} to {grey.max()}; convert it to 8 or 16 bits first")
    scaled = np.round(grey * (255.0 / 65535.0)).astype(np.uint8)
    return np.repeat(scaled[:, :, None], 3, axis=2)
