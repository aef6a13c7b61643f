"""The messages of vision_msgs, where that package is installed."""

from __future__ import annotations

import importlib
import logging
from types import ModuleType

logger = logging.getLogger(__name__)


def vision_msgs() -> ModuleType | None:
    """``vision_msgs.msg`` of ROS 2 (4.x); None, and a line in the log, where it is not installed."""
    try:
        module = importlib.import_module("vision_msgs.msg")
    except ImportError:
        logger.info(
            "vision_msgs is not installed: no ~/detections, ~/detections_3d and ~/label_info; everything else is there"
        )
        return None
    return module
