"""Python's logging to ROS logging."""

from __future__ import annotations

import logging
from typing import Any

from lisa_ros.plain_text import escaped


class RosHandler(logging.Handler):
    """Hands every record to a node's logger. ``ros_logger``: what ``Node.get_logger()`` gives."""

    def __init__(self, ros_logger: Any) -> None:
        super().__init__(logging.INFO)
        self._ros_logger = ros_logger

    def emit(self, record: logging.LogRecord) -> None:
        text = escaped(f"{record.getMessage()} [{record.name}]")
        # A line for each level: a call site of rclpy's logger keeps its first severity for ever.
        if record.levelno >= logging.ERROR:
            self._ros_logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._ros_logger.warning(text)
        else:
            self._ros_logger.info(text)
