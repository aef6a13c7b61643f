"""A depth camera beside the client's colour camera: a box in front of a wall."""

from __future__ import annotations

import copy

import numpy as np
from rclpy.qos import qos_profile_sensor_data
from robot import SIZE, TRUTH, Client
from sensor_msgs.msg import CameraInfo, Image

from lisa_ros.ros.messages import image_message

FOCAL, TABLE_M, BOX_M = 300.0, 0.8, 0.7
HEIGHT, WIDTH = SIZE
K = [FOCAL, 0.0, (WIDTH - 1) / 2, 0.0, FOCAL, (HEIGHT - 1) / 2, 0.0, 0.0, 1.0]
BOX_SIZE = (120 * BOX_M / FOCAL, 60 * BOX_M / FOCAL)  # m, of TRUTH's 120 x 60 pixels


def box_centre() -> np.ndarray:
    """(3,) m, optical frame."""
    rows, columns = np.nonzero(TRUTH)
    return np.multiply([columns.mean() - K[2], rows.mean() - K[5], FOCAL], BOX_M / FOCAL)


class DepthCamera:
    """Publishes depth for every image that the client shows, ``late_s`` after its stamp, and a camera_info for both.

    The client's own camera_info is replaced by a calibrated one. depth: uint16 mm or float32 m.
    """

    def __init__(self, client: Client) -> None:
        self.usual()
        self._images = client.images
        self._depths = client.node.create_publisher(Image, "depth", qos_profile_sensor_data)
        self._depth_infos = client.node.create_publisher(CameraInfo, "depth_info", qos_profile_sensor_data)
        self._infos = client.infos
        self._client = client
        client.images, client.infos = self, self

    def close(self) -> None:
        """Give the client, which others use too, its own camera back."""
        self._client.images, self._client.infos = self._images, self._infos
        for publisher in (self._depths, self._depth_infos):
            self._client.node.destroy_publisher(publisher)

    def usual(self) -> None:
        """Aligned, in time, calibrated."""
        self.frame_id, self.late_s, self.k = "camera_optical", 0.0, K
        self.p, self.d = [0.0] * 12, []
        self.depth = np.full(SIZE, 1000 * TABLE_M, np.uint16)
        self.depth[TRUTH] = 1000 * BOX_M

    def get_subscription_count(self) -> int:
        return self._images.get_subscription_count()

    def publish(self, message: Image | CameraInfo) -> None:
        if isinstance(message, CameraInfo):
            message.k = self.k
            if any(self.p):
                message.p = self.p
            if self.d:
                message.d = self.d
            self._infos.publish(message)
            return
        header = copy.deepcopy(message.header)
        header.frame_id = self.frame_id
        since = header.stamp.sec * 10**9 + header.stamp.nanosec + round(self.late_s * 1e9)
        header.stamp.sec, header.stamp.nanosec = divmod(since, 10**9)
        encoding = "16UC1" if self.depth.dtype == np.uint16 else "32FC1"
        depth = image_message(header, self.depth.view(np.uint8).reshape(*self.depth.shape, -1), encoding)
        self._depth_infos.publish(CameraInfo(header=header, height=HEIGHT, width=WIDTH, k=K))
        self._images.publish(message)
        self._depths.publish(depth)
