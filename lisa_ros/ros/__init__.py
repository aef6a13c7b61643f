"""The ROS 2 node. The only package of lisa_ros that imports rclpy."""

import os

# OpenBLAS's threads spin while they wait for work, which costs a core where matrices are as small as the node's. It
# reads the environment once, when numpy is loaded; the model's process, which inherits the environment, is not meant.
if "OPENBLAS_NUM_THREADS" not in os.environ:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    import numpy  # noqa: F401

    del os.environ["OPENBLAS_NUM_THREADS"]
