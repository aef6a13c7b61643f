"""The node's own memory stays what it was, however often its manager takes it up and down."""

import numpy as np
import psutil
from lifecycle_msgs.msg import Transition
from robot import Client, stamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from test_lifecycle import Manager

from lisa_ros.msg import Segmentation
from lisa_ros.ros.messages import image_message

MIB = 2**20
SIZE = (480, 640)
WARM, CYCLES = 5, 50
MOST_MIB = 20


class Camera:
    """Image, camera_info and depth of one size, all under one stamp."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.depths = client.node.create_publisher(Image, "depth", 5)
        pixels = np.full((*SIZE, 3), 20, np.uint8)
        pixels[100:200, 100:300] = 250
        self.pixels = pixels
        self.depth = np.full(SIZE, 800, np.uint16).view(np.uint8).reshape(*SIZE, 2)

    def shoot(self) -> None:
        image = stamped(self.client.node, self.pixels)
        header = Header(stamp=image.header.stamp, frame_id=image.header.frame_id)
        self.client.infos.publish(CameraInfo(header=header, height=SIZE[0], width=SIZE[1]))
        self.depths.publish(image_message(header, self.depth, "16UC1"))
        self.client.images.publish(image)

    def seen(self) -> bool:
        self.shoot()
        return self.client.call("the box").status == Segmentation.SUCCESS


def test_fifty_lifecycle_cycles_leave_no_memory_behind(launch) -> None:
    client = launch(autostart="false")
    manager, camera = Manager(client), Camera(client)
    node = psutil.Process(client.lisa.process.pid)
    sizes = []
    for _ in range(WARM + CYCLES):
        assert manager.change(Transition.TRANSITION_CONFIGURE)
        assert manager.change(Transition.TRANSITION_ACTIVATE)
        client.wait(lambda: client.images.get_subscription_count() == 1, "subscription to image")
        client.wait(camera.seen, "answer about the camera's frame")
        for _ in range(10):  # as many depth images as the node keeps
            camera.shoot()
            client.spin(0.005)
        assert manager.change(Transition.TRANSITION_DEACTIVATE)
        assert manager.change(Transition.TRANSITION_CLEANUP)
        sizes.append(node.memory_info().rss / MIB)
    assert sizes[-1] - sizes[WARM - 1] < MOST_MIB, [round(size) for size in sizes]
