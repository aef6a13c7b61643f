"""``lisa check``: whether a model is usable on this machine, in about a minute."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lisa_ros.atomic import check_outputs, replacing
from lisa_ros.cli import model
from lisa_ros.engine.api import EngineInfo
from lisa_ros.evaluation.self_check import HEADER, Line, SelfCheck, row, self_check, table
from lisa_ros.plain_text import escaped, escaped_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Exit codes: 0 usable; 3 works, but misses the quality; 1 broken; 2 wrong usage."
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON")
    model.add_model_arguments(parser, positional=True)


def main(arguments: argparse.Namespace) -> int:
    """Check the model and print a table. Returns the exit code."""
    model.options(arguments)
    check_outputs({"--json": arguments.json})
    engine = model.load(arguments)
    info = engine.info
    print(f"{escaped(info.name)} on {info.device} in {info.precision}")
    print(HEADER, flush=True)
    check = self_check(engine, _print)
    print(escaped(table(check)))
    if arguments.json is not None:
        with replacing(arguments.json) as unfinished:
            text = json.dumps(document(info, check), indent=2, ensure_ascii=False)
            unfinished.write_text(escaped_json(text) + "\n", "utf-8")
    return int(check.whole)


def document(info: EngineInfo, check: SelfCheck) -> dict[str, Any]:
    """The results for a JSON file."""
    lines = [
        {
            "group": line.group,
            "name": line.name,
            "verdict": line.verdict.name.lower(),
            "iou": None if line.iou is None else round(line.iou, 4),
            "to_mask_s": None if line.to_mask_s is None else round(line.to_mask_s, 4),
            "words": line.words,
        }
        for line in check.lines
    ]
    about = {"model": info.name, "device": info.device, "precision": info.precision}
    return about | {"verdict": check.whole.name.lower(), "checks": lines, "remarks": check.remarks}


def _print(line: Line) -> None:
    print(escaped(row(line)), flush=True)
