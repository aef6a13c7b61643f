"""An engine with every capability, which answers with what it was asked: ``reciting_engine:load``."""

from __future__ import annotations

import numpy as np

from lisa_ros.engine.api import CAPABILITIES, Answer, EngineInfo, Region, Turn, crop_mask


class Reciting:
    info = EngineInfo("reciting", "cpu", "fp32", CAPABILITIES)

    def encode(self, rgb):
        return rgb

    def ask(self, encoded, ask, on_event=None, should_stop=None, details=False):
        text = f"{ask.text}|{ask.explain}|{ask.verbatim}|{list(ask.targets)}|{list(ask.points)}|"
        text += f"{list(ask.point_labels)}|{ask.box}|{ask.max_new_tokens}"
        masks = []
        if ask.proposals is not None:
            proposals = ask.proposals
            masks = [] if proposals.masks is None else list(proposals.masks)
            text += f"|{proposals.embeddings}|{proposals.scores}|{list(proposals.phrases)}"
        if ask.history is not None:
            text += f"|{ask.history.max_turns} {ask.history.turns}"
            ask.history.append(Turn(ask.text, "yes", ((0, 1),)))
        regions = [Region(crop_mask(mask), 0.5, spans=((0, 1), (2, 3))) for mask in masks]
        shown = {"logits": np.float32(masks or [[[0.5]]]), "ids": [1, 2], "odd": object(), "one": np.int64(7)}
        return Answer(text, regions, ["nothing"], details=shown if details else None)

    def teacher_forced(self, encoded, asks, answers):
        mask = np.zeros(encoded.shape[:2], bool)
        mask[: len(asks), : len("".join(answers))] = True
        return mask


def load(*, model, device, precision, options, progress):
    return Reciting()
