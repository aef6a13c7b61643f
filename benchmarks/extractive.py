"""The demo model, and models that choose among its own proposals, on the same commands by the same metric.

python benchmarks/extractive.py --scenes scenes/test --model elisa-small=runs/elisa-small/model \
    --choosers runs/choose-small

Rows: LISA-small; two untrained choices, ``nearest`` and ``elisa_small``; each model given; and two that explain them.
``bound`` is the best set of proposals for each command, chosen with the truth known. ``chosen right`` is the share of
commands for which a model's masks are within 0.02 of that bound.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lisa_ros import load_engine
from lisa_ros.data.scene_records import TurnRecord
from lisa_ros.data.scenes import read_pair, read_records
from lisa_ros.engine.api import Ask, Conversation, MaskCrop
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.evaluation.bound import RIGHT, best_set
from lisa_ros.extractive.choosing_engine import POINTER, SELECTOR
from lisa_ros.perception.masks import union_image
from lisa_ros.perception.packed_crops import packed

UNTRAINED = "elisa_small, untrained"


@dataclass
class Scores:
    """Of one model. ious: by kind of command. right: whether each was within RIGHT of the bound."""

    ious: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    right: list[bool] = field(default_factory=list)
    refused: list[bool] = field(default_factory=list)  # of commands without a target
    missed: list[bool] = field(default_factory=list)  # of the others
    first_s: list[float] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        every = [iou for ious in self.ious.values() for iou in ious]
        return {
            "gIoU": round(float(np.mean(every)), 4),
            "n": len(every),
            "chosen right": round(float(np.mean(self.right)), 4) if self.right else None,
            "refused of absent": round(float(np.mean(self.refused)), 4) if self.refused else None,
            "absent": len(self.refused),
            "refused of present": round(float(np.mean(self.missed)), 4) if self.missed else None,
            "first region ms": round(1e3 * float(np.median(self.first_s)), 1) if self.first_s else None,
            **{kind: round(float(np.mean(ious)), 4) for kind, ious in sorted(self.ious.items())},
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--scenes", type=Path, required=True, help="folder of `lisa scenes`")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER", help="a trained one; repeatable")
    parser.add_argument("--choosers", type=Path, metavar="FOLDER", help="of a run of recipe choose_small")
    parser.add_argument("--limit", type=int, help="only so many scenes")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    engines = {"LISA-small": load_engine(), UNTRAINED: load_engine(options={"family": "elisa_small"})}
    engines["nearest"] = load_engine(options={"family": "nearest"})
    if arguments.choosers:
        selector, pointer = (str(arguments.choosers / name) for name in (SELECTOR, POINTER))
        engines["cells"] = load_engine(options={"family": "cells", "pointer": pointer})
        for choice in ("both", "threshold"):
            options = {"family": "llm-seg", "selector": selector, "choice": choice}
            engines[f"LLM-Seg-small, {choice}"] = load_engine(options=options)
    for given in arguments.model:
        name, _, folder = given.partition("=")
        engines[name] = load_engine(folder)
    rows = measure(arguments.scenes, engines, arguments.limit)
    text = json.dumps(rows, indent=1)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")


def measure(folder: Path, engines: dict[str, SupportedEngine], limit: int | None) -> dict[str, Any]:
    scores = {name: Scores() for name in [*engines, "bound"]}
    for record in read_records(folder)[:limit]:
        rgb, ids = read_pair(folder, record)
        encoded, encode_s = {}, {}
        for name, engine in engines.items():
            begun = time.perf_counter()
            encoded[name] = engine.encode(rgb)
            encode_s[name] = time.perf_counter() - begun
        crops: list[MaskCrop] | None = None
        for number, conversation in enumerate(record["conversations"]):
            last, kind = conversation["turns"][-1], conversation["kind"]
            truth = np.isin(ids, last["targets"])
            answers = {name: asked(engine, encoded[name], conversation["turns"]) for name, engine in engines.items()}
            if crops is None:  # not before: the first region's time has its proposals in it
                crops = list(packed(engines[UNTRAINED].proposals(encoded[UNTRAINED])))
            bound = 0.0
            if last["targets"]:
                bound = best_set(crops, truth.astype(np.uint8))[1].iou
                scores["bound"].ious[kind].append(bound)
            for name, (regions, first_s) in answers.items():
                mask, found = union_image(regions, truth.shape) > 0, bool(regions)
                if number == 0 and found and len(conversation["turns"]) == 1:
                    scores[name].first_s.append(encode_s[name] + first_s)
                if not last["targets"]:
                    scores[name].refused.append(not found)
                    continue
                iou = float((mask & truth).sum() / max((mask | truth).sum(), 1))
                scores[name].ious[kind].append(iou)
                scores[name].missed.append(not found)
                scores[name].right.append(iou >= bound - RIGHT)
    return {name: of_model.row() for name, of_model in scores.items()}


def asked(engine: SupportedEngine, encoded: Any, turns: list[TurnRecord]) -> tuple[list[MaskCrop], float]:
    """The last answer's masks, and the seconds to the first."""
    history = Conversation()
    for turn in turns:
        ask = Ask(turn["command"], explain=turn["explain"], history=history, max_new_tokens=96)
        answer = engine.ask(encoded, ask)
    return [region.mask for region in answer.regions], answer.timings.first_mask_s


if __name__ == "__main__":
    main()
