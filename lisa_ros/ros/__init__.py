"""The ROS 2 node. The only package of lisa_ros that imports rclpy."""
