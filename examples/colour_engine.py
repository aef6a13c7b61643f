"""An engine in one file: it finds what has the colour that the command names.

    PYTHONPATH=examples lisa segment photo.jpg "the red thing" --model colour_engine:load

docs/extend.md explains it line by line.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lisa_ros.engine.api import Answer, Ask, EngineInfo, Region, Regions, Stage, Token, crop_mask
from lisa_ros.engine.options import check_options
from lisa_ros.errors import Cancelled

COLOURS = {"red": (220, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 220), "yellow": (230, 210, 40)}
TOLERANCE = 60
MIN_PIXELS = 20


class ColourEngine:
    """Masks of pixels near a named colour."""

    def __init__(self, tolerance: float) -> None:
        self.info = EngineInfo(name="colours", device="cpu", precision="fp32")
        self.tolerance = tolerance

    def encode(self, rgb: np.ndarray) -> np.ndarray:
        return rgb.astype(np.int16)

    def ask(self, encoded: Any, ask: Ask, on_event=None, should_stop=None, details: bool = False) -> Answer:
        on_event, should_stop = on_event or (lambda event: None), should_stop or (lambda: False)
        text, regions = "", []
        on_event(Stage("generating"))
        for name in (word for word in COLOURS if word in ask.text.lower().split()):
            if should_stop():
                raise Cancelled("canceled between two colours")
            mask = (np.abs(encoded - np.array(COLOURS[name], np.int16)) <= self.tolerance).all(axis=2)
            if mask.sum() < MIN_PIXELS:
                continue
            text += f"{', ' if text else ''}{name}"
            region = Region(crop_mask(mask), score=1.0, phrase=name, span=(len(text) - len(name), len(text)))
            regions.append(region)
            on_event(Regions([region]))
        text = text or "There is none."
        on_event(Token(text))
        return Answer(text, regions)


def load(*, model: str, device: str, precision: str, options: dict[str, Any], progress) -> ColourEngine:
    check_options(options, {"tolerance"}, "colours")
    return ColourEngine(float(options.get("tolerance", TOLERANCE)))
