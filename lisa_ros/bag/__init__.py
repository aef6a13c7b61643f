"""Recordings (rosbag2) annotated offline: read and written by rosbags, so that no ROS is needed."""
