"""``lisa calibrate``: make a model's scores the probability that a mask is on the right object."""

from __future__ import annotations

import argparse
from pathlib import Path

from lisa_ros.cli import model
from lisa_ros.cli.data_set import FORMATS, Pictures, add_data_arguments
from lisa_ros.cli.model import load
from lisa_ros.engine.calibration import FILE, Calibration
from lisa_ros.engine.registry import is_callable_name, is_url
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.reliability import ScoredMask, fit, reliability, reliability_table
from lisa_ros.evaluation.run import evaluate
from lisa_ros.plain_text import escaped

FEWEST_MASKS = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Fit temperature and bias of a model's scores on examples, and store them in the model's folder: from then on, "
        f"a score is the probability that the mask is on the right object. Data sets: {FORMATS}"
    )
    add_data_arguments(parser)
    model.add_model_arguments(parser)


def main(arguments: argparse.Namespace) -> int:
    """Calibrate a model's folder. Returns the exit code."""
    folder = _folder(arguments.model)
    model.options(arguments)
    pictures = Pictures(arguments)
    engine = SupportedEngine(load(arguments).engine)  # without a calibration of before
    by_picture: dict[str, list[ScoredMask]] = {}
    evaluate(
        engine,
        pictures,
        forced=False,
        on_outcome=lambda outcome, picture, *_: by_picture.setdefault(picture.name, []).extend(outcome.masks),
    )
    groups = list(by_picture.values())
    masks = [mask for group in groups for mask in group]
    if len(masks) < FEWEST_MASKS:
        raise ConfigError(
            f"{arguments.data} gave {len(masks)} masks; at least {FEWEST_MASKS} are needed: use more pictures, or "
            "raise --limit"
        )
    print("\n".join(reliability_table(reliability(masks))))
    print(f"after calibration, on masks that it was not fitted to: {_held_out_error(groups):.3f} for the right object")
    temperature, bias = fit(masks)
    right = sum(mask.right for mask in masks) / len(masks)
    calibration = Calibration(
        temperature, bias, len(masks), round(right, 4), arguments.data.resolve().name, engine.info.name
    )
    calibration.write(folder / FILE)
    print(
        f"temperature {temperature:.3f}, bias {bias:.3f}, fitted to {len(masks)} masks; wrote {escaped(folder / FILE)}"
    )
    return 0


def _folder(name: str) -> Path:
    """Where the calibration belongs. Raises ConfigError for a model without a folder of its own."""
    if is_url(name):
        raise ConfigError(f"{name} is a server; run lisa calibrate there, with the model's folder")
    if is_callable_name(name):
        raise ConfigError(f"{name} has no folder to store a calibration in; give a model's folder")
    if not name:
        raise ConfigError("the bundled demo model is not changed; copy its folder, and give the copy with --model")
    return Path(name).expanduser()


def _held_out_error(groups: list[list[ScoredMask]]) -> float:
    """Calibration error where each half of the pictures is corrected by what was fitted to the other half."""
    halves = [[mask for group in groups[at::2] for mask in group] for at in (0, 1)]
    corrected = []
    for fitted, tested in (halves, halves[::-1]):
        if not fitted:
            raise ConfigError("all masks are of one picture; use more pictures")
        calibration = Calibration(*fit(fitted))
        corrected += [ScoredMask(calibration.probability(mask.score), mask.iou, mask.right) for mask in tested]
    return float(reliability(corrected)["error_right"])
