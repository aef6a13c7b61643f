"""A subscriber of a node's ~/result, as a process: says that it is there, and then every command that was answered."""

import sys

import rclpy
from rclpy.qos import QoSProfile

from lisa_ros.msg import Segmentation

rclpy.init()
node = rclpy.create_node("slow_listener")
topic = f"{sys.argv[1]}/result"
node.create_subscription(Segmentation, topic, lambda answer: print(answer.command, flush=True), QoSProfile(depth=100))
while not node.count_publishers(topic):
    rclpy.spin_once(node, timeout_sec=0.05)
print("here", flush=True)
rclpy.spin(node)
