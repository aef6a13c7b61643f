"""Draws how the rounds of training went, from the json files that `lisa train` writes into the folders of its runs:

    pip install matplotlib
    python benchmarks/curves.py runs/round runs/other --out docs/images/curves.png

A row for each stage, a line for each run; rounds of a stage follow each other.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

PANELS = {
    "vision": {"dice": "Dice", "dense": "class of cells, CE", "gIoU": "gIoU, kept scenes"},
    "speech": {"answer": "answer, CE", "prompt": "prompt distance", "exact": "answers right to the letter"},
    "sight": {"answer": "answer, CE", "dice": "Dice", "exact": "answers right to the letter"},
}
"""Stage: key of its lines and what that is called."""


def rounds_of(run: Path, stage: str) -> list[dict]:
    """The lines of a stage's rounds as if they were one, in order. Raises ValueError where a file is no json."""
    files = [run / f"{stage}.json"] if stage == "vision" else sorted(run.glob(f"{stage}-*[0-9].json"))
    lines: list[dict] = []
    for file in filter(Path.exists, files):
        done = lines[-1]["step"] if lines else 0
        lines += [line | {"step": done + line["step"]} for line in json.loads(file.read_text("utf-8"))]
    return lines


def draw(axes: Any, runs: dict[str, list[dict]], key: str) -> None:
    """A line for each run that tells ``key``."""
    for name, lines in runs.items():
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axes.plot(*zip(*points, strict=True), marker="." if len(points) < 10 else None, label=name)
    axes.grid(alpha=0.3)
    if sum(map(bool, runs.values())) > 1:
        axes.legend()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    told = parser.parse_args()
    try:
        from matplotlib.figure import Figure
    except ImportError:
        sys.exit("curves need matplotlib; install it with 'pip install matplotlib'")
    found = {stage: {run.name: rounds_of(run, stage) for run in told.runs} for stage in PANELS}
    found = {stage: runs for stage, runs in found.items() if any(runs.values())}
    if not found:
        sys.exit(f"no vision.json, speech-0.json or sight-0.json in {', '.join(map(str, told.runs))}")
    figure = Figure(figsize=(12, 3 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 3, squeeze=False)
    for row, (stage, runs) in zip(panels, found.items(), strict=True):
        for axes, (key, title) in zip(row, PANELS[stage].items(), strict=True):
            draw(axes, runs, key)
            axes.set(title=f"{stage}: {title}", xlabel="step")
    figure.savefig(told.out, dpi=80)
    print(told.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
