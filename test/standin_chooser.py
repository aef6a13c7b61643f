"""An engine without a model that marks every proposal it is given: so a test sees which masks came, of which frame."""

from __future__ import annotations

from lisa_ros.engine.api import PROPOSALS, Answer, EngineInfo, Region
from lisa_ros.perception.packed_crops import packed


class Everything:
    info = EngineInfo("everything", capabilities=frozenset({PROPOSALS}))

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        crops = packed(ask.proposals) if ask.proposals is not None else ()
        phrases = ask.proposals.phrases if crops and ask.proposals.phrases else [""] * len(crops)
        return Answer("these", [Region(crop, crop.score, phrase) for crop, phrase in zip(crops, phrases, strict=True)])


def load(*, model, device, precision, options, progress):
    """The factory."""
    return Everything()
