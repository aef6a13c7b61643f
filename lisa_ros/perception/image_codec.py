"""sensor_msgs images to RGB pixels, in numpy, OpenCV and Pillow.

It replaces cv_bridge, whose wheels on PyPI fail with NumPy 2 and read padded rows incorrectly without an error. An
``image`` is any object with the attributes of the message (``height``, ``width``, ``encoding``, ``is_bigendian``,
``step``, ``data``): no ROS is needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from lisa_ros.errors import ImageError
from lisa_ros.perception.photo import rgb_of

Pixels = NDArray[np.uint8]

END_OF_JPEG = b"\xff\xd9"
PNG = b"\x89PNG\r\n\x1a\n"
MIN_SIDE = 8  # pixels: in a smaller image, a patch of an image encoder is larger than any object


class Layout(NamedTuple):
    """Memory layout of an encoding.

    Args:
        channels: Bytes of a pixel in a row.
        convert: Converts (rows, width, channels) uint8 or uint16 to RGB, into the given array (H, W, 3) uint8.
        dtype: Type of the stored values.
        rows: Rows of data for two rows of pixels.
        even_height: Whether the height must be even.
        even_width: Whether the width must be even.
        padded: Whether rows may have padding. In i420 they may not, since its colours are in half rows.
    """

    channels: int
    convert: Callable[[NDArray[Any], Pixels], None]
    dtype: type = np.uint8
    rows: int = 2
    even_height: bool = False
    even_width: bool = False
    padded: bool = True


def _through(code: int) -> Callable[[NDArray[Any], Pixels], None]:
    """A conversion by OpenCV's ``code``, written straight into the output."""

    def convert(pixels: NDArray[Any], out: Pixels) -> None:
        cv2.cvtColor(pixels, code, dst=out)

    return convert


def _copy(pixels: NDArray[Any], out: Pixels) -> None:
    np.copyto(out, pixels)


def _from_16_bits(convert: Callable[[NDArray[Any], Pixels], None]) -> Callable[[NDArray[Any], Pixels], None]:
    """``convert`` after the whole range of 16 bits was mapped onto 8: v * 255 / 65535, as cv_bridge does."""

    def scaled(pixels: NDArray[Any], out: Pixels) -> None:
        convert(cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0), out)

    return scaled


# OpenCV names a Bayer pattern by its second row and second column, ROS by its first: rggb there is BG here.
LAYOUTS: dict[str, Layout] = {
    "rgb8": Layout(3, _copy),
    "bgr8": Layout(3, _through(cv2.COLOR_BGR2RGB)),
    "rgba8": Layout(4, _through(cv2.COLOR_RGBA2RGB)),
    "bgra8": Layout(4, _through(cv2.COLOR_BGRA2RGB)),
    "mono8": Layout(1, _through(cv2.COLOR_GRAY2RGB)),
    "mono16": Layout(2, _from_16_bits(_through(cv2.COLOR_GRAY2RGB)), np.uint16),
    "rgb16": Layout(6, _from_16_bits(_copy), np.uint16),
    "bgr16": Layout(6, _from_16_bits(_through(cv2.COLOR_BGR2RGB)), np.uint16),
    "rgba16": Layout(8, _from_16_bits(_through(cv2.COLOR_RGBA2RGB)), np.uint16),
    "bgra16": Layout(8, _from_16_bits(_through(cv2.COLOR_BGRA2RGB)), np.uint16),
    "bayer_rggb8": Layout(1, _through(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": Layout(1, _through(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": Layout(1, _through(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": Layout(1, _through(cv2.COLOR_BayerGB2RGB)),
    "bayer_rggb16": Layout(2, _from_16_bits(_through(cv2.COLOR_BayerBG2RGB)), np.uint16),
    "bayer_bggr16": Layout(2, _from_16_bits(_through(cv2.COLOR_BayerRG2RGB)), np.uint16),
    "bayer_gbrg16": Layout(2, _from_16_bits(_through(cv2.COLOR_BayerGR2RGB)), np.uint16),
    "bayer_grbg16": Layout(2, _from_16_bits(_through(cv2.COLOR_BayerGB2RGB)), np.uint16),
    "yuv422": Layout(2, _through(cv2.COLOR_YUV2RGB_UYVY), even_width=True),
    "uyvy": Layout(2, _through(cv2.COLOR_YUV2RGB_UYVY), even_width=True),
    "yuv422_yuy2": Layout(2, _through(cv2.COLOR_YUV2RGB_YUY2), even_width=True),
    "yuyv": Layout(2, _through(cv2.COLOR_YUV2RGB_YUY2), even_width=True),
    "nv12": Layout(1, _through(cv2.COLOR_YUV2RGB_NV12), rows=3, even_height=True, even_width=True),
    "nv21": Layout(1, _through(cv2.COLOR_YUV2RGB_NV21), rows=3, even_height=True, even_width=True),
    "i420": Layout(1, _through(cv2.COLOR_YUV2RGB_I420), rows=3, even_height=True, even_width=True, padded=False),
}

BAYER_PATTERNS = tuple(name for name in LAYOUTS if name.startswith("bayer"))

_UNNAMED = {
    "8UC1": "mono8",
    "8UC3": "bgr8 or rgb8",
    "8UC4": "bgra8 or rgba8",
    "16UC1": "mono16",
    "16UC3": "bgr16 or rgb16",
}
"""Encodings that give the number of channels, but not their meaning -> what to publish instead."""


def check_size(height: int, width: int, max_pixels: int) -> None:
    """Check the size of an image.

    Args:
        height: Pixels.
        width: Pixels.
        max_pixels: Largest accepted number of pixels.

    Raises:
        ImageError: The image is empty, too small or too large.
    """
    if height == 0 or width == 0:
        raise ImageError(f"the image is {width} x {height} pixels: it is empty; publish one with pixels")
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"the image is {width} x {height} pixels; at least {MIN_SIDE} x {MIN_SIDE} are needed")
    if height * width > max_pixels:
        raise ImageError(
            f"the image is {width} x {height} = {height * width} pixels; at most {max_pixels} are taken: publish a "
            "smaller one or raise the parameter max_image_pixels"
        )


def check_image(image: Any, max_pixels: int) -> Layout:
    """Compare encoding, size, step and amount of data of a message. No pixel is read.

    Args:
        image: A sensor_msgs/Image.
        max_pixels: Largest accepted number of pixels.

    Returns:
        The layout of its encoding.

    Raises:
        ImageError: The encoding is not supported, or the values do not agree.
    """
    layout = LAYOUTS.get(image.encoding)
    if layout is None:
        if image.encoding in _UNNAMED:
            raise ImageError(
                f"encoding {image.encoding!r} does not name its channels; publish {_UNNAMED[image.encoding]}"
            )
        raise ImageError(
            f"encoding {image.encoding!r} is not a colour image that can be read; publish one of {', '.join(LAYOUTS)}"
        )
    height, width, step = image.height, image.width, image.step
    check_size(height, width, max_pixels)
    for side, length, even in (("width", width, layout.even_width), ("height", height, layout.even_height)):
        if even and length % 2:
            raise ImageError(f"{side} {length} is odd; {image.encoding} shares colours between two pixels")
    row = width * layout.channels
    if step < row or step % np.dtype(layout.dtype).itemsize:
        raise ImageError(
            f"step {step} is wrong: a row of {width} pixels in {image.encoding} has {row} bytes; set step to {row}, or "
            "to more where rows are padded"
        )
    if step != row and not layout.padded:
        raise ImageError(f"step {step} is wrong: rows of {image.encoding} have no padding; set step to {row}")
    rows = height * layout.rows // 2
    expected, least = step * rows, step * (rows - 1) + row  # some drivers leave out the last row's padding
    if not least <= len(image.data) <= expected:
        raise ImageError(
            f"the image has {len(image.data)} bytes of data; {width} x {height} in {image.encoding} with step {step} "
            f"has {expected}: step, size and data must agree"
        )
    return layout


def decode(image: Any, max_pixels: int) -> Pixels:
    """Decode a raw image.

    Args:
        image: A sensor_msgs/Image in one of the encodings of ``LAYOUTS``.
        max_pixels: Largest accepted number of pixels.

    Returns:
        RGB pixels, (H, W, 3) uint8. For rgb8 without padding, a view of the message's data.

    Raises:
        ImageError: The encoding is not supported, or size, step and data do not agree.
    """
    layout = check_image(image, max_pixels)
    pixels = _view(image, layout)
    if image.encoding == "rgb8" and pixels.flags.c_contiguous:
        return pixels
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    layout.convert(pixels, rgb)
    return rgb


def _view(image: Any, layout: Layout) -> NDArray[Any]:
    """The message's bytes as an array, without a copy, the rows' padding skipped."""
    dtype = np.dtype(layout.dtype)
    channels = layout.channels // dtype.itemsize
    rows = image.height * layout.rows // 2
    if dtype.itemsize > 1:
        dtype = dtype.newbyteorder(">" if image.is_bigendian else "<")
    pixels: NDArray[Any] = np.ndarray(
        (rows, image.width, channels), dtype, image.data, strides=(image.step, layout.channels, dtype.itemsize)
    )
    if not dtype.isnative:
        pixels = pixels.astype(dtype.newbyteorder("="))
    return pixels if channels > 1 else pixels[:, :, 0]


def open_compressed(image: Any, max_pixels: int) -> Image.Image:
    """Read the header of a JPEG or PNG image and check its size. No pixel is decoded.

    Args:
        image: A sensor_msgs/CompressedImage.
        max_pixels: Largest accepted number of pixels.

    Raises:
        ImageError: The data is neither JPEG nor PNG, or has an unsupported size.
    """
    try:
        # Not Image.open: it warns or raises about many pixels by a limit of its own, and check_size knows the user's.
        kind = PngImageFile if bytes(image.data[: len(PNG)]) == PNG else JpegImageFile
        picture = kind(io.BytesIO(image.data))
    except Exception as error:
        raise ImageError(
            f"{_compressed(image)} is neither JPEG nor PNG; publish one of them, or a raw image"
        ) from error
    check_size(picture.height, picture.width, max_pixels)  # known from the header, before a decompression bomb goes off
    return picture


def _compressed(image: Any) -> str:
    return f"the compressed image (format {image.format!r}, {len(image.data)} bytes)"


def decode_compressed(image: Any, max_pixels: int) -> Pixels:
    """Decode a JPEG or PNG image.

    If the format begins with a Bayer encoding, as image_transport writes it ("bayer_rggb8; png compressed"), the image
    is demosaiced. Orientation tags are ignored, since masks are in the camera's own pixels. Pillow decodes all but
    whole colour JPEGs: OpenCV 5 needs seconds for a PNG of 200 bytes with wrong chunk lengths.

    Args:
        image: A sensor_msgs/CompressedImage.
        max_pixels: Largest accepted number of pixels.

    Returns:
        RGB pixels, (H, W, 3) uint8.

    Raises:
        ImageError: The data is not JPEG or PNG, is damaged, or has an unsupported size or Bayer pattern.
    """
    what = _compressed(image)
    picture = open_compressed(image, max_pixels)
    try:
        if "bayer" in image.format:
            return _bayer(picture, image.format)
        pixels = _of_whole_jpeg(image.data, picture)
        return rgb_of(picture) if pixels is None else pixels
    except ImageError as error:
        raise ImageError(f"{what}: {error}") from error
    except Exception as error:
        raise ImageError(f"{what} is damaged or cut off; publish it whole") from error


def _of_whole_jpeg(data: Any, picture: Image.Image) -> Pixels | None:
    """The pixels of a colour JPEG that has its end; None for any other image.

    Both libraries use libjpeg-turbo and give the same pixels. OpenCV takes three quarters of Pillow's time, but fills
    up what is cut off. picture: with the header that was checked.
    """
    if picture.format != "JPEG" or picture.mode != "RGB" or bytes(data[-2:]) != END_OF_JPEG:
        return None
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None or bgr.shape != (picture.height, picture.width, 3):
        return None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, bgr), np.uint8)


def _bayer(picture: Image.Image, message_format: str) -> Pixels:
    """RGB pixels of a grey picture that holds a Bayer pattern. Raises ImageError."""
    encoding = message_format.partition(";")[0].strip()
    layout = LAYOUTS.get(encoding)
    raw = np.asarray(picture)
    if layout is None or not encoding.startswith("bayer"):
        raise ImageError(f"the format names no supported Bayer pattern; use one of {', '.join(BAYER_PATTERNS)}")
    if raw.ndim != 2:
        raise ImageError(f"{encoding} has one channel, the picture is {picture.mode}; publish the raw pattern")
    if layout.dtype == np.uint8 and raw.dtype != np.uint8:
        raise ImageError(f"{encoding} has 8 bits, the picture is {picture.mode}; name the 16-bit pattern")
    rgb = np.empty((*raw.shape, 3), np.uint8)
    pixels: NDArray[Any] = raw.astype(layout.dtype) * (
        257 if raw.dtype == np.uint8 and layout.dtype == np.uint16 else 1
    )
    layout.convert(pixels, rgb)
    return rgb
