"""From a sensor_msgs/CameraInfo to the pinhole camera of a rectified image.

``info`` is anything with the attributes of the message (``k``, ``p``, ``d``, ``distortion_model``, ``width``,
``height``, ``binning_x``, ``binning_y``, ``roi``): no ROS is needed.

Sources: sensor_msgs/CameraInfo ("P specifies the intrinsic matrix of the processed (rectified) image"), REP-104 (K and
P are of the full sensor; binning and roi say what part of it the image is), image_geometry's PinholeCameraModel.
"""

from __future__ import annotations

from typing import Any

from lisa_ros.errors import ImageError
from lisa_ros.perception.geometry import Camera

WIDEST = 0.1
"""Smallest accepted focal length, as a share of the image's longer side: a view of 157 degrees."""

OFF_CENTRE = 0.4
"""Largest accepted distance of the principal point from the image's centre, as a share of the side."""


def image_size(info: Any) -> tuple[int, int]:
    """Size of the images of a camera_info: the region of interest, divided by the binning.

    Returns:
        (height, width), pixels.
    """
    height = info.roi.height or info.height
    width = info.roi.width or info.width
    return height // max(info.binning_y, 1), width // max(info.binning_x, 1)


def pinhole(info: Any) -> Camera:
    """The camera of the rectified image: from P, or from K if P is all zero.

    Args:
        info: A sensor_msgs/CameraInfo.

    Returns:
        The pinhole camera, in pixels of the image (after region of interest and binning).

    Raises:
        ImageError: There is no calibration, or it cannot belong to an image of this size.
    """
    name, fx, fy, cx, cy = _matrix(info)
    bin_x, bin_y = max(info.binning_x, 1), max(info.binning_y, 1)
    height, width = image_size(info)
    cx, cy = (cx - info.roi.x_offset) / bin_x, (cy - info.roi.y_offset) / bin_y
    camera = Camera.from_matrix([fx / bin_x, 0.0, cx, 0.0, fy / bin_y, cy, 0.0, 0.0, 1.0], width, height)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    if (
        min(camera.fx, camera.fy) < WIDEST * max(width, height)
        or abs(cx - middle_x) > OFF_CENTRE * width
        or abs(cy - middle_y) > OFF_CENTRE * height
    ):
        raise ImageError(
            f"camera_info's {name} (fx {camera.fx:g}, fy {camera.fy:g}, cx {cx:g}, cy {cy:g}) cannot be that of images "
            f"of {width} x {height} pixels; publish the calibration of this resolution"
        )
    return camera


def distortion(info: Any) -> str:
    """Name of the lens model if camera_info has distortion, else empty. Results in metres need rectified images."""
    return (info.distortion_model or "unnamed model") if any(float(value) for value in info.d) else ""


def _matrix(info: Any) -> tuple[str, float, float, float, float]:
    """Name of the matrix that counts, and its fx, fy, cx, cy in pixels of the full sensor."""
    p, k = [float(value) for value in info.p], [float(value) for value in info.k]
    if len(p) == 12 and any(p):
        return "P", p[0], p[5], p[2], p[6]
    if len(k) == 9 and any(k):
        return "K", k[0], k[4], k[2], k[5]
    raise ImageError("camera_info has neither P nor K (all 0); calibrate the camera")
