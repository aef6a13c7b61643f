"""camera_info becomes the pinhole of the rectified image."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lisa_ros.errors import ImageError
from lisa_ros.perception.calibration import distortion, image_size, pinhole

K = [330.0, 0.0, 150.0, 0.0, 330.0, 110.0, 0.0, 0.0, 1.0]
P = [300.0, 0.0, 159.5, 0.0, 0.0, 301.0, 119.5, 0.0, 0.0, 0.0, 1.0, 0.0]


def info(**fields):
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0)
    usual = {"width": 320, "height": 240, "k": K, "p": P, "d": [], "distortion_model": "plumb_bob"}
    return SimpleNamespace(**(usual | {"binning_x": 0, "binning_y": 0, "roi": roi} | fields))


def numbers(camera):
    return camera.fx, camera.fy, camera.cx, camera.cy, camera.width, camera.height


def test_the_rectified_image_has_the_matrix_p() -> None:
    assert numbers(pinhole(info(d=[-0.2, 0.05, 0, 0, 0]))) == (300, 301, 159.5, 119.5, 320, 240)


def test_k_counts_where_p_is_all_zero() -> None:
    assert numbers(pinhole(info(p=[0.0] * 12)))[:4] == (330, 330, 150, 110)


def test_without_any_matrix_there_is_no_camera() -> None:
    with pytest.raises(ImageError, match="calibrate the camera"):
        pinhole(info(p=[0.0] * 12, k=[0.0] * 9))


def test_binning_divides_the_image_and_its_matrix() -> None:
    binned = info(binning_x=2, binning_y=2)
    assert image_size(binned) == (120, 160)
    assert numbers(pinhole(binned)) == (150, 150.5, 79.75, 59.75, 160, 120)


def test_a_region_of_interest_moves_the_principal_point() -> None:
    cut = info(roi=SimpleNamespace(x_offset=60, y_offset=40, width=200, height=160))
    assert image_size(cut) == (160, 200)
    assert numbers(pinhole(cut)) == (300, 301, 99.5, 79.5, 200, 160)


def test_a_region_that_is_binned_is_cut_first() -> None:
    roi = SimpleNamespace(x_offset=60, y_offset=40, width=200, height=160)
    camera = pinhole(info(binning_x=2, binning_y=4, roi=roi))
    assert numbers(camera) == (150, 75.25, 49.75, 19.875, 100, 40)


@pytest.mark.parametrize(
    "p",
    [
        pytest.param([1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0], id="unit"),
        pytest.param([600.0, 0, 319.5, 0, 0, 600.0, 239.5, 0, 0, 0, 1, 0], id="of twice the size"),
        pytest.param([120.0, 0, 20.0, 0, 0, 120.0, 15.0, 0, 0, 0, 1, 0], id="of an eighth of the size"),
        pytest.param([5.0, 0, 159.5, 0, 0, 5.0, 119.5, 0, 0, 0, 1, 0], id="of nearly 180 degrees"),
    ],
)
def test_a_matrix_that_cannot_belong_to_the_size_is_named(p: list[float]) -> None:
    with pytest.raises(ImageError, match=r"camera_info's P .* 320 x 240"):
        pinhole(info(p=p))


def test_distortion_names_the_lens_model() -> None:
    assert distortion(info(d=[0.0, 0.0, 0.0, 0.0, 0.0])) == ""
    assert distortion(info(d=[0.1, 0, 0, 0], distortion_model="equidistant")) == "equidistant"
