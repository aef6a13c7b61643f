"""Trackers for tests of the parameter ``tracker``: those that log when they work, break, hang or die."""

from __future__ import annotations

import logging
import os
import time

from lisa_ros.perception.tracking import FlowTracker

logger = logging.getLogger("lisa_ros.standin_tracker")


class Talking(FlowTracker):
    def start(self, rgb, crops, time_s):
        logger.info("tracker: start")
        super().start(rgb, crops, time_s)

    def redetect(self, rgb, crops, time_s):
        logger.info("tracker: redetect")
        super().redetect(rgb, crops, time_s)


class Broken(FlowTracker):
    def update(self, rgb, time_s):
        raise RuntimeError("this tracker is broken")


class Hanging(FlowTracker):
    def update(self, rgb, time_s):
        time.sleep(3600)


class Dying(FlowTracker):
    def update(self, rgb, time_s):
        os._exit(3)
