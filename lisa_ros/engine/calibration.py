"""Scores that mean something: an engine's score turned into the probability that the mask is on the right object.

p = sigmoid(logit(score) / temperature + bias). This is the temperature scaling of Guo et al., "On calibration of modern
neural networks" (2017), with the bias of Platt, "Probabilistic outputs for support vector machines" (1999): a model may
be wrong more often than not. ``lisa calibrate`` fits the two numbers (lisa_ros.evaluation.reliability).
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lisa_ros.atomic import replacing
from lisa_ros.errors import CheckpointError
from lisa_ros.json_file import read_json_object

FILE = "calibration.json"
"""Name of the file in a model's folder."""

MARGIN = 1e-6
"""Scores are kept this far from 0 and 1, whose logits are infinite."""


@dataclass(frozen=True)
class Calibration:
    """The score of one model, made comparable.

    Args:
        temperature: Above 0; more than 1 makes scores less extreme.
        bias: Added to the logit; below 0 for a model that is too sure of itself.
        masks: Number of masks that it was fitted to.
        right: Share of them that lay on the right object.
        data: Name of the data set.
        model: Name of the model, as its engine gives it.
    """

    temperature: float
    bias: float
    masks: int = 0
    right: float = 0.0
    data: str = ""
    model: str = ""

    def probability(self, score: float) -> float:
        """The calibrated score, in [0, 1]. It grows with ``score``, also in [0, 1]."""
        x = logit(score) / self.temperature + self.bias
        return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))

    def write(self, file: Path) -> None:
        """Write as JSON."""
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")


def logit(score: float) -> float:
    """Log odds of a score in [0, 1], of at most 13.8 in either direction."""
    score = min(max(score, MARGIN), 1.0 - MARGIN)
    return math.log(score / (1.0 - score))


def read_calibration(folder: Path) -> Calibration | None:
    """The calibration of a model's folder; None where there is none. Raises CheckpointError for a damaged one."""
    file = folder / FILE
    if not file.is_file():
        return None
    content = read_json_object(file, CheckpointError)
    temperature, bias = (_number(content.get(name)) for name in ("temperature", "bias"))
    if not (temperature > 0 and math.isfinite(temperature) and math.isfinite(bias)):
        raise CheckpointError(
            f"{file} has temperature {content.get('temperature')!r} and bias {content.get('bias')!r}; they must be "
            "numbers, the first above 0: run lisa calibrate again, or remove the file"
        )
    return Calibration(temperature, bias, model=str(content.get("model", "")))


def _number(value: Any) -> float:
    return float(value) if type(value) in (int, float) else math.nan
