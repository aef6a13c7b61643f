"""``lisa inspect``: what a checkpoint contains, whether it is complete and how much memory it needs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from lisa_ros.grounded.weights.inspect import inspect_engine, is_engine
from lisa_ros.lisa.weights.inspect import describe, inspect
from lisa_ros.plain_text import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, help="model folder, CLIP folder or SAM's .pth file")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, with the names of all tensors")


def main(arguments: argparse.Namespace) -> int:
    path = arguments.path.expanduser()
    report = inspect_engine(path) if is_engine(path) else inspect(path)
    if arguments.json:
        content = asdict(report)
        for name, memory in report.memory.items():
            content["memory"][name]["total"] = memory.total
        print(json.dumps(content, indent=2))
    else:
        print(escaped(describe(report)))
    return 1 if report.problems else 0
