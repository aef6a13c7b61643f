"""Camera images of every encoding become RGB; what cannot be one is refused before a pixel is touched."""

import io
import struct
import zlib
from contextlib import suppress
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lisa_ros.errors import ImageError
from lisa_ros.perception.image_codec import (
    LAYOUTS,
    MIN_SIDE,
    check_image,
    decode,
    decode_compressed,
)
from lisa_ros.perception.photo import read_photo

MOST = 10_000_000
ORIENTED = Image.Exif()
ORIENTED[0x0112] = 6  # turned by 90 degrees
BAYER = {  # colours of the first two rows and columns
    "bayer_rggb8": ("rg", "gb"),
    "bayer_bggr8": ("bg", "gr"),
    "bayer_gbrg8": ("gb", "rg"),
    "bayer_grbg8": ("gr", "bg"),
}


def message(pixels, encoding, padding=0, is_bigendian=0, height=None):
    """pixels: (rows, bytes) uint8, one row of the message's data in each."""
    rows, row = pixels.shape
    padded = np.full((rows, row + padding), 0xAB, np.uint8)
    padded[:, :row] = pixels
    channels = LAYOUTS[encoding].channels
    return SimpleNamespace(
        height=rows if height is None else height,
        width=row // channels,
        encoding=encoding,
        is_bigendian=is_bigendian,
        step=row + padding,
        data=padded.tobytes(),
    )


def packed(rgb, encoding, padding=0, is_bigendian=0):
    """``rgb`` (H, W, 3) as a message, for the encodings that keep every pixel."""
    height, width = rgb.shape[:2]
    alpha = np.full((height, width, 1), 77, np.uint8)
    channels = {
        "rgb8": rgb,
        "bgr8": rgb[:, :, ::-1],
        "rgba8": np.concatenate([rgb, alpha], 2),
        "bgra8": np.concatenate([rgb[:, :, ::-1], alpha], 2),
    }[encoding]
    return message(channels.reshape(height, -1), encoding, padding, is_bigendian)


frames = st.builds(
    lambda height, width, seed: np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8),
    st.integers(MIN_SIDE, 40),
    st.integers(MIN_SIDE, 40),
    st.integers(0, 2**32 - 1),
)
paddings = st.integers(0, 9)


@given(frames, st.sampled_from(["rgb8", "bgr8", "rgba8", "bgra8"]), paddings, st.integers(0, 1))
def test_colour_images_come_back_exactly_whatever_the_padding(rgb, encoding, padding, is_bigendian):
    np.testing.assert_array_equal(decode(packed(rgb, encoding, padding, is_bigendian), MOST), rgb)


@given(frames, paddings)
def test_grey_is_the_same_in_all_channels(rgb, padding):
    grey = rgb[:, :, 0]
    np.testing.assert_array_equal(decode(message(grey, "mono8", padding), MOST), np.repeat(grey[:, :, None], 3, 2))


@given(frames, st.integers(0, 4), st.integers(0, 1))
def test_16_bits_are_scaled_to_8_in_either_byte_order(rgb, padding, is_bigendian):
    deep = rgb[:, :, 0].astype(np.uint16) * 256 + rgb[:, :, 1]
    data = deep.astype(">u2" if is_bigendian else "<u2").view(np.uint8)
    decoded = decode(message(data, "mono16", 2 * padding, is_bigendian), MOST)
    np.testing.assert_array_equal(decoded[:, :, 0], np.rint(deep * (255 / 65535)).astype(np.uint8))
    np.testing.assert_array_equal(decoded[:, :, 0], decoded[:, :, 2])


@pytest.mark.parametrize("encoding", BAYER)
@pytest.mark.parametrize("padding", [0, 5])
def test_bayer_patterns_give_the_colour_of_the_scene(encoding, padding):
    colour = {"r": 200, "g": 120, "b": 30}
    pattern = np.array([[colour[c] for c in row] for row in BAYER[encoding]], np.uint8)
    raw = np.tile(pattern, (10, 12))
    decoded = decode(message(raw, encoding, padding), MOST)
    assert decoded.shape == (20, 24, 3)
    np.testing.assert_array_equal(decoded[2:-2, 2:-2], np.full((16, 20, 3), (200, 120, 30), np.uint8))


YUV = {"u": 90, "v": 170, "y": 130}


@pytest.mark.parametrize(
    ("encoding", "order"), [("yuv422", "uyvy"), ("uyvy", "uyvy"), ("yuv422_yuy2", "yuyv"), ("yuyv", "yuyv")]
)
@pytest.mark.parametrize("padding", [0, 6])
def test_both_orders_of_yuv422_give_the_same_colour(encoding, order, padding):
    raw = np.tile(np.array([YUV[c] for c in order], np.uint8), (10, 8))
    assert_colour_of_yuv(decode(message(raw, encoding, padding), MOST), (10, 16))


@pytest.mark.parametrize(("encoding", "order"), [("nv12", "uv"), ("nv21", "vu")])
@pytest.mark.parametrize("padding", [0, 6])
def test_nv12_and_nv21_give_the_same_colour(encoding, order, padding):
    raw = np.full((15, 16), YUV["y"], np.uint8)
    raw[10:] = np.tile(np.array([YUV[c] for c in order], np.uint8), 8)
    assert_colour_of_yuv(decode(message(raw, encoding, padding, height=10), MOST), (10, 16))


def assert_colour_of_yuv(decoded, size):
    """ITU-R BT.601, limited range, as cameras mean it."""
    y, u, v = 1.164 * (YUV["y"] - 16), YUV["u"] - 128, YUV["v"] - 128
    expected = (y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u)
    assert decoded.shape == (*size, 3)
    np.testing.assert_allclose(decoded, np.broadcast_to(expected, decoded.shape), atol=2)


def test_an_unpadded_rgb_image_is_not_copied():
    image = packed(np.zeros((20, 30, 3), np.uint8), "rgb8")
    image.data = bytearray(image.data)
    decoded = decode(image, MOST)
    image.data[0] = 9
    assert decoded[0, 0, 0] == 9


def test_data_may_be_the_array_that_rclpy_makes():
    import array

    image = packed(np.full((20, 30, 3), 5, np.uint8), "bgr8", 3)
    image.data = array.array("B", image.data)
    assert (decode(image, MOST) == 5).all()


@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16"])
def test_sixteen_bits_of_colour_are_scaled_from_their_whole_range(encoding):
    rgb = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), np.uint16)
    channels = [0, 1, 2] if encoding.startswith("rgb") else [2, 1, 0]
    pixels = rgb[:, :, channels]
    if "a" in encoding:
        pixels = np.concatenate([pixels, np.full((20, 30, 1), 9, np.uint16)], 2)
    image = message(np.ascontiguousarray(pixels).view(np.uint8).reshape(20, -1), encoding)
    assert np.abs(decode(image, MOST).astype(int) - rgb * (255 / 65535)).max() <= 0.51


@pytest.mark.parametrize("encoding", sorted(BAYER))
def test_sixteen_bits_of_bayer_are_the_eight_bits_scaled(encoding):
    raw = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    wide = raw.astype(np.uint16) * 257  # 255 becomes 65535
    image = message(wide.view(np.uint8), encoding.replace("8", "16"))
    np.testing.assert_array_equal(decode(image, MOST), decode(message(raw, encoding), MOST))


def test_i420_is_the_planes_of_nv12():
    luma = np.random.default_rng(0).integers(16, 235, (20, 32), np.uint8)
    blue, red = np.random.default_rng(1).integers(16, 240, (2, 10, 16), np.uint8)
    nv12 = np.concatenate([luma, np.stack([blue, red], 2).reshape(10, 32)])
    i420 = np.concatenate([luma.ravel(), blue.ravel(), red.ravel()]).reshape(30, 32)
    np.testing.assert_array_equal(
        decode(message(i420, "i420", height=20), MOST), decode(message(nv12, "nv12", height=20), MOST)
    )


@pytest.mark.parametrize(("encoding", "instead"), [("8UC3", "bgr8 or rgb8"), ("8UC1", "mono8"), ("16UC1", "mono16")])
def test_an_encoding_without_a_meaning_is_refused_with_the_reason(encoding, instead):
    image = packed(np.zeros((20, 30, 3), np.uint8), "rgb8")
    image.encoding = encoding
    with pytest.raises(ImageError, match=rf"'{encoding}' does not name its channels; publish {instead}"):
        decode(image, MOST)


# --- refusals

GOOD = packed(np.zeros((20, 30, 3), np.uint8), "rgb8")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"step": 89}, r"step 89 is wrong.*set step to 90"),
        ({"step": 0}, "step 0 is wrong"),
        ({"step": 100}, "1800 bytes of data.*step 100 has 2000"),
        ({"data": b""}, "0 bytes of data"),
        ({"data": bytes(1799)}, "1799 bytes of data"),
        ({"data": bytes(1801)}, "1801 bytes of data"),
        ({"height": 0}, "empty"),
        ({"width": 0}, "empty"),
        ({"height": 1, "width": 1, "step": 3, "data": bytes(3)}, "at least 8 x 8"),
        ({"encoding": "32FC1"}, "encoding '32FC1' is not a colour image.*publish one of rgb8, bgr8"),
        ({"encoding": "16UC1"}, "'16UC1'"),
        ({"encoding": ""}, "encoding ''"),
        ({"encoding": "RGB8"}, "'RGB8'"),
        ({"height": 9000, "width": 12000, "step": 36000}, "12000 x 9000 = 108000000 pixels; at most 10000000"),
        ({"encoding": "mono16", "step": 61, "data": bytes(61 * 20)}, "step 61"),
        ({"encoding": "yuyv", "width": 15, "step": 30, "data": bytes(600)}, "width 15 is odd"),
        ({"encoding": "nv12", "height": 15, "step": 30, "data": bytes(660)}, "height 15 is odd"),
    ],
)
def test_an_error_names_the_invalid_value_and_how_to_fix_it(changes, says):
    image = SimpleNamespace(**{**vars(GOOD), **changes})
    with pytest.raises(ImageError, match=says):
        check_image(image, MOST)
    with pytest.raises(ImageError, match=says):
        decode(image, MOST)


def test_a_last_row_without_its_padding_is_taken():
    image = packed(np.full((20, 30, 3), 7, np.uint8), "bgr8", 6)
    image.data = image.data[:-6]
    assert (decode(image, MOST) == 7).all()


numbers = st.integers(0, 2**32 - 1)


@settings(max_examples=500)
@given(
    height=st.one_of(st.integers(0, 40), numbers),
    width=st.one_of(st.integers(0, 40), numbers),
    step=st.one_of(st.integers(0, 200), numbers),
    encoding=st.one_of(st.sampled_from(sorted(LAYOUTS)), st.text(max_size=12)),
    is_bigendian=st.integers(0, 255),
    data=st.binary(max_size=5000),
)
def test_any_message_is_an_image_or_an_image_error(height, width, step, encoding, is_bigendian, data):
    image = SimpleNamespace(
        height=height, width=width, step=step, encoding=encoding, is_bigendian=is_bigendian, data=data
    )
    with suppress(ImageError):
        assert decode(image, MOST).shape == (height, width, 3)


# --- compressed


def compressed(rgb, suffix):
    data = cv2.imencode(suffix, rgb[:, :, ::-1])[1].tobytes()
    return SimpleNamespace(format=suffix[1:], data=data)


def test_png_comes_back_exactly_and_jpeg_nearly():
    rgb = np.zeros((50, 70, 3), np.uint8)
    rgb[10:30, 20:40] = (250, 100, 20)
    np.testing.assert_array_equal(decode_compressed(compressed(rgb, ".png"), MOST), rgb)
    assert np.abs(decode_compressed(compressed(rgb, ".jpg"), MOST).astype(int) - rgb).mean() < 5


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_compressed_images_size_is_known_before_it_is_decoded(suffix):
    image = compressed(np.zeros((50, 70, 3), np.uint8), suffix)
    with pytest.raises(ImageError, match="70 x 50 = 3500 pixels; at most 3000"):
        decode_compressed(image, 3000)


@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}, {"exif": ORIENTED}],
    ids=["whole colours", "half colours", "progressive", "turned"],  # xdist's workers must give the same names
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_has_the_pixels_that_pillow_gives(mode: str, options: dict) -> None:
    """To the last bit, whichever library decodes it; an orientation tag is ignored."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8).repeat(11, 0).repeat(9, 1)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "JPEG", quality=90, **options)
    decoded = decode_compressed(SimpleNamespace(format="jpeg", data=file.getvalue()), MOST)
    assert np.array_equal(decoded, np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.parametrize(("side", "says"), [(10_000, "100000000 pixels"), (20_000, "400000000 pixels")])
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_decompression_bomb_meets_our_limit_and_no_other(kind, side, says, recwarn):
    """Sizes that Pillow warns about and refuses by itself; the pixels are not even there."""
    image = compressed(np.zeros((50, 70, 3), np.uint8), f".{kind}")
    whole = bytearray(image.data)
    if kind == "png":
        whole[16:24] = struct.pack(">II", side, side)
        whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    else:
        at = whole.index(b"\xff\xc0") + 5  # start of frame
        whole[at : at + 4] = struct.pack(">HH", side, side)
    image.data = bytes(whole)
    with pytest.raises(ImageError, match=f"{says}; at most 50000000.*max_image_pixels"):
        decode_compressed(image, 50_000_000)
    if kind == "png":  # the limit that the user gives is the one that holds; Pillow fills up a cut JPEG with grey
        image.data = image.data[:60]
        with pytest.raises(ImageError, match="damaged or cut off"):
            decode_compressed(image, 1_000_000_000)
    assert not recwarn


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@given(data=st.data())
def test_a_damaged_compressed_image_is_an_image_or_an_image_error(suffix, data):
    image = compressed(np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3), suffix)
    whole = bytearray(image.data)
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    image.data = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with suppress(ImageError):
        assert decode_compressed(image, 100_000).dtype == np.uint8


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_compressed_image(data):
    with pytest.raises(ImageError):
        decode_compressed(SimpleNamespace(format="jpeg", data=data), MOST)


# --- beside the real thing


def test_a_real_cv_bridge_sees_the_same():
    cv_bridge = pytest.importorskip("cv_bridge", reason="cv_bridge comes with a ROS installation")
    from sensor_msgs.msg import Image

    bridge = cv_bridge.CvBridge()
    random = np.random.default_rng(0)
    for encoding in ("rgb8", "bgr8", "rgba8", "bgra8", "mono8", "mono16", *BAYER, "yuv422", "yuv422_yuy2"):
        rows = random.integers(0, 256, (20, 30 * LAYOUTS[encoding].channels), np.uint8)
        ours = message(rows, encoding)  # without padding: cv_bridge misreads it
        theirs = Image(height=20, width=30, encoding=encoding, step=ours.step, data=ours.data)
        np.testing.assert_array_equal(decode(ours, MOST), bridge.imgmsg_to_cv2(theirs, "rgb8"), err_msg=encoding)


# --- compressed images of every kind


def published(picture, message_format, file="PNG"):
    data = io.BytesIO()
    picture.save(data, file)
    return SimpleNamespace(format=message_format, data=data.getvalue())


@pytest.mark.parametrize("encoding", [*sorted(BAYER), *(name.replace("8", "16") for name in sorted(BAYER))])
def test_a_compressed_bayer_pattern_is_demosaiced(encoding):
    raw = np.random.default_rng(0).integers(0, 256, (20, 30), np.uint8)
    pattern = raw.astype(np.uint16) * 257 if "16" in encoding else raw
    image = published(Image.fromarray(pattern), f"{encoding}; png compressed")
    plain = message(raw, encoding.replace("16", "8"))
    np.testing.assert_array_equal(decode_compressed(image, MOST), decode(plain, MOST))


def test_a_bayer_pattern_in_colour_is_refused():
    image = published(Image.new("RGB", (30, 20)), "bayer_rggb8; png compressed")
    with pytest.raises(ImageError, match="one channel, the picture is RGB"):
        decode_compressed(image, MOST)
    unknown = published(Image.new("L", (30, 20)), "bayer_rggb12; png compressed")
    with pytest.raises(ImageError, match="no supported Bayer pattern"):
        decode_compressed(unknown, MOST)


def test_compressed_grey_of_16_bits_is_scaled_from_its_whole_range():
    ramp = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.uint16)
    rgb = decode_compressed(published(Image.fromarray(ramp), "mono16; png compressed"), MOST)
    assert np.abs(rgb - ramp[:, :, None] * (255 / 65535)).max() <= 0.51


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_compressed_message_has_the_pixels_of_the_same_file(mode, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).convert(mode)
    picture.save(tmp_path / "picture.png")
    image = published(picture, "png")
    np.testing.assert_array_equal(decode_compressed(image, MOST), read_photo(str(tmp_path / "picture.png")))
