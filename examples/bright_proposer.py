"""A proposer in one file: every bright spot is a mask to choose from. See docs/extend.md.

PYTHONPATH=examples lisa proposals photo.jpg --proposer bright_proposer:load --out numbered.png
"""

import cv2
import numpy as np

from lisa_ros.engine.api import Proposals
from lisa_ros.engine.options import check_options
from lisa_ros.errors import ConfigError


class BrightSpots:
    def __init__(self, level):
        self.level = level

    def propose(self, image):
        grey = cv2.cvtColor(image.rgb, cv2.COLOR_RGB2GRAY)
        count, parts = cv2.connectedComponents((grey > self.level).astype(np.uint8))
        masks = np.array([parts == part for part in range(1, count)]).reshape(count - 1, *grey.shape)
        scores = np.array([grey[mask].mean() / 255 for mask in masks])
        return Proposals(masks=masks, scores=scores)


def load(*, segmenter, options):
    check_options(options, {"level"}, "bright spots")
    level = options.get("level", 200)
    if not isinstance(level, int) or not 0 <= level < 255:
        raise ConfigError(f"option level is {level!r}; give a whole number from 0 to 254")
    return BrightSpots(level)
