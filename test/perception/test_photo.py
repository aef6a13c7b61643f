"""A picture file means the same wherever it is read: segment, train, evaluate, the demo's camera, CompressedImage."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from lisa_ros.cli import main
from lisa_ros.data.picture import BadExample, read_picture
from lisa_ros.data.reasonseg import read_example
from lisa_ros.errors import ImageError
from lisa_ros.evaluation.examples import read_pictures
from lisa_ros.perception.image_codec import decode_compressed
from lisa_ros.perception.photo import read_photo
from lisa_ros.training.datasets.reasonseg import ReasonSeg

GREY = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)
RGB = np.stack([GREY, GREY[::-1], GREY[:, ::-1]], axis=2)
ALPHA = np.tile(np.array([0, 51, 255], np.uint8), (20, 10))
DEEP = np.linspace(0, 65535, 20 * 30).reshape(20, 30).astype(np.uint16)
OVER_WHITE = 255 + (GREY.astype(float) - 255) * ALPHA / 255
PALETTE = [255, 0, 0, 0, 255, 0, 10, 20, 30]
INDICES = (GREY % 3).astype(np.uint8)
INKS = np.dstack([RGB, GREY // 2])


def palette(mode: str) -> Image.Image:
    image = Image.fromarray(INDICES, "P")
    image.putpalette(PALETTE)
    if mode == "PA":
        image = image.convert("PA")
        image.putalpha(Image.fromarray(ALPHA))
    return image


def repeated(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[:, :, None], 3, axis=2)


COLOURS = np.array(PALETTE).reshape(3, 3)[INDICES]
PICTURES: dict[str, tuple[Callable[[], Image.Image], str, np.ndarray]] = {
    "1": (lambda: Image.fromarray(GREY > 99), ".png", repeated((GREY > 99) * 255)),
    "L": (lambda: Image.fromarray(GREY), ".png", repeated(GREY)),
    "LA": (lambda: Image.fromarray(np.dstack([GREY, ALPHA]), "LA"), ".png", repeated(OVER_WHITE)),
    "P": (lambda: palette("P"), ".png", COLOURS),
    "PA": (lambda: palette("PA"), ".tif", 255 + (COLOURS - 255.0) * ALPHA[:, :, None] / 255),
    "RGB": (lambda: Image.fromarray(RGB), ".png", RGB),
    "RGBA": (
        lambda: Image.fromarray(np.dstack([RGB, ALPHA]), "RGBA"),
        ".png",
        255 + (RGB - 255.0) * ALPHA[:, :, None] / 255,
    ),
    "CMYK": (
        lambda: Image.fromarray(INKS, "CMYK"),
        ".tif",
        (255.0 - RGB) * (255.0 - INKS[:, :, 3:]) / 255,
    ),
    "I;16": (lambda: Image.fromarray(DEEP), ".png", repeated(DEEP / 257)),
    "I;16B": (lambda: Image.frombytes("I;16B", (30, 20), DEEP.astype(">u2").tobytes()), ".tif", repeated(DEEP / 257)),
    "I": (lambda: Image.fromarray(DEEP.astype(np.int32)), ".tif", repeated(DEEP / 257)),
}


def saved(folder: Path, image: Image.Image, ending: str) -> Path:
    file = folder / f"a{ending}"
    image.save(file)
    label = {"text": ["the cup"], "is_sentence": False, "shapes": []}
    (folder / "a.json").write_text(json.dumps(label))
    return file


def by_demo(file: Path) -> np.ndarray:
    import camera  # imports rclpy

    return camera.load_picture(file)


READERS = {
    "segment": lambda file: read_photo(str(file)),
    "data": read_picture,
    "train": lambda file: ReasonSeg(file.parent).draw(random.Random(0)).rgb,
    "evaluate": lambda file: next(read_pictures(file.parent)).rgb,
}
if find_spec("rclpy"):
    READERS["demo"] = by_demo


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("mode", PICTURES)
def test_every_reader_sees_the_same_and_the_right_pixels(tmp_path: Path, mode: str) -> None:
    make, ending, expected = PICTURES[mode]
    file = saved(tmp_path, make(), ending)
    with Image.open(file) as stored:
        assert stored.mode == ("RGBA" if mode == "PA" and stored.mode == "RGBA" else mode)
    for name, read in READERS.items():
        rgb = read(file)
        assert rgb.dtype == np.uint8
        assert np.abs(rgb - expected.astype(float)).max() <= 1, name
    if ending == ".png":
        message = SimpleNamespace(format="png", data=file.read_bytes())
        assert np.array_equal(decode_compressed(message, 10**6), read_photo(str(file)))


def test_a_jpeg_of_four_inks_is_the_same_in_a_message(tmp_path: Path) -> None:
    file = saved(tmp_path, Image.fromarray(RGB).convert("CMYK"), ".jpg")
    message = SimpleNamespace(format="jpeg", data=file.read_bytes())
    assert np.array_equal(decode_compressed(message, 10**6), read_photo(str(file)))
    assert np.abs(read_photo(str(file)).astype(float) - RGB).mean() < 10


REFUSED = {
    "floating-point pixels": Image.fromarray(GREY.astype(np.float32)),
    "values from 0 to 70000": Image.fromarray(np.array([[0, 70000]], np.int32)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_pixels_without_a_known_range_are_refused_everywhere_with_the_same_words(
    tmp_path: Path, reason: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    file = saved(tmp_path, REFUSED[reason], ".tif")
    with pytest.raises(ImageError, match=reason) as refused:
        read_photo(str(file))
    words = str(refused.value)
    assert words.startswith(f"{file} cannot be used: ") and "convert it to 8 or 16 bits" in words
    for read in (read_picture, read_example, READERS.get("demo", read_picture)):
        with pytest.raises((BadExample, ImageError)) as other:
            read(file)
        assert str(other.value) == words
    assert list(read_pictures(tmp_path)) == []
    assert words in caplog.text
    assert main(["segment", str(file), "the cup"]) == 1
    assert capsys.readouterr().err == f"lisa: {words}\n"


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".bmp", ".webp", ".gif"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6])
def test_a_file_that_is_cut_off_is_refused_everywhere(tmp_path: Path, ending: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    file = saved(tmp_path, Image.fromarray(noise), ending)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(ImageError, match="cannot be read") as refused:
        read_photo(str(file))
    for read in (read_picture, read_example, READERS.get("demo", read_picture)):
        with pytest.raises((BadExample, ImageError)) as other:
            read(file)
        assert str(other.value) == str(refused.value)
    message = SimpleNamespace(format=ending[1:], data=file.read_bytes())
    with pytest.raises(ImageError):
        decode_compressed(message, 10**6)


def test_what_is_no_picture_file_has_its_own_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (tmp_path / "gone.png").symlink_to(tmp_path / "blob")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    for name, remedy in {
        "photo.heic": "convert HEIC to JPEG or PNG first",
        "gone.png": "is a link to a file that is gone",
        "model": "is a model's folder; name it with --model",
        ".": "is a folder; name one picture in it",
        "xinlai/LISA-7B-v1": "name it with --model, after 'lisa fetch xinlai/LISA-7B-v1'",
        "xinlai/LISA-13B-llama2-v1.5": "after 'lisa fetch",
        "https://example.org/a.jpg": "download the picture first",
        "photos/a.jpg": "there is no file photos/a.jpg; check the name",
        "model/a": "there is no file model/a; check the name",
    }.items():
        with pytest.raises(ImageError) as refused:
            read_photo(name)
        assert remedy in str(refused.value), name
