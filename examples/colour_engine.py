"""An engine in one file that segments by colour: for "the red thing" it marks all red pixels. See docs/extend.md.

PYTHONPATH=examples lisa segment photo.jpg "the red thing" --model colour_engine:load
"""

import re

import cv2

from lisa_ros.engine.api import Answer, EngineInfo, Region, Regions, Token, crop_mask
from lisa_ros.engine.options import check_options
from lisa_ros.errors import Cancelled, ConfigError

# First and last hue of each colour on OpenCV's circle of 180; red lies on both sides of 0.
HUES = {
    "red": (170, 9),
    "orange": (10, 19),
    "yellow": (20, 34),
    "green": (35, 85),
    "blue": (86, 129),
    "pink": (130, 169),
}


class ColourEngine:
    def __init__(self, smallest: float):
        self.info = EngineInfo("colours")
        self.smallest = smallest  # share of the picture; less is noise

    def encode(self, rgb):
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        hue, saturation, value = cv2.split(encoded)
        text, regions = "", []
        for name in [name for name in HUES if re.search(rf"\b{name}\b", ask.text.lower())]:
            if should_stop and should_stop():
                raise Cancelled("canceled between two colours")
            first, last = HUES[name]
            inside = (hue >= first) & (hue <= last) if first <= last else (hue >= first) | (hue <= last)
            mask = inside & (saturation >= 90) & (value >= 60)
            if mask.mean() < self.smallest:
                text += f"There is no {name} thing. "
                continue
            begin = len(text) + len("This is the ")
            text += f"This is the {name} thing. "
            score = float(saturation[mask].mean()) / 255
            regions.append(Region(crop_mask(mask), score, f"{name} thing", span=(begin, begin + len(f"{name} thing"))))
            if on_event:
                on_event(Token(text))
                on_event(Regions(regions[-1:]))
        return Answer(text.strip() or f"Name a colour: {', '.join(HUES)}.", regions)


def load(*, model, device, precision, options, progress):
    check_options(options, {"smallest"}, "colours")
    smallest = options.get("smallest", 0.001)
    if not isinstance(smallest, float) or not 0 < smallest < 1:
        raise ConfigError(f"option smallest is {smallest!r}; give a share of the picture above 0 and below 1")
    return ColourEngine(smallest)
