"""What LISA's relatives and several targets cost, on one thread of a CPU, in ratios of one run.

    python benchmarks/relatives_speed.py                   # mid size, about 3 minutes
    python benchmarks/relatives_speed.py --size tiny --rounds 2

A checkpoint of random numbers (random_checkpoint.py) in fp32. All networks run; only the choice of each token is
replaced by a fixed answer, so that every way writes what a trained model would write. SAM's image encoder is left out:
it runs once for a frame whatever is asked. Every round measures all ways in turn on a new frame; the ratios are of the
medians of CPU time.

- points: READ's similarity points in a short answer, against the same answer of LISA. Goal: at most 1.10.
- five targets, LISA: one question for each target after one reading of image and system text. Goal: at most 1.5.
- five targets, GSVA: one question and one answer for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fixed_answer import FixedAnswer
from loading_memory import machine
from numpy.typing import NDArray
from random_checkpoint import SIZES, write_checkpoint
from torch import Tensor

from lisa_ros.engine.api import Ask
from lisa_ros.engine.support import SupportedEngine
from lisa_ros.lisa.family import FAMILIES, Family, PointSettings
from lisa_ros.lisa.segmenter import Segmenter

TARGETS = ("cup", "knife", "bowl", "fork", "red plate")
SHORT = "Sure, [SEG]."


def engine_of(segmenter: Segmenter, family: Family, points: PointSettings | None, answer: str) -> SupportedEngine:
    """The loaded model as one of ``family`` that always gives ``answer``."""
    spec = replace(segmenter.spec, family=family, questions=family.questions, points=points)
    one = Segmenter(segmenter.lisa, spec, segmenter.tokenizer, segmenter._clip, "llava_v1", "fp32")
    mask_id = segmenter.tokenizer.id_of("[SEG]")
    grounding = FixedAnswer(segmenter.lisa, mask_id, None, points)
    grounding.answer = [*segmenter.tokenizer.encode(answer), segmenter.tokenizer.eos_id]
    one.grounding = grounding
    return SupportedEngine(one)


def ways(segmenter: Segmenter) -> dict[str, tuple[SupportedEngine, Ask]]:
    """What is measured: an engine and its command."""
    # GSVA without its reject token, which a checkpoint of LISA lacks: the cost is that of one more row.
    gsva = replace(FAMILIES["gsva"], reject_token="")
    sentence = gsva.named_answer(gsva.named_answers[1], TARGETS)
    lisa = engine_of(segmenter, FAMILIES["lisa"], None, SHORT)
    return {
        "one target": (lisa, Ask(targets=TARGETS[:1])),
        "points": (engine_of(segmenter, FAMILIES["lisa"], PointSettings(), SHORT), Ask(targets=TARGETS[:1])),
        "five targets, LISA": (lisa, Ask(targets=TARGETS)),
        "five targets, GSVA": (engine_of(segmenter, gsva, None, sentence), Ask(targets=TARGETS)),
    }


def answer(engine: SupportedEngine, ask: Ask, rgb: NDArray[np.uint8], embedding: Tensor) -> None:
    """Encode a frame and answer the command; ``embedding`` stands for what SAM's encoder makes of it."""
    frame = engine.encode(rgb)
    frame.value.features.embedding = embedding
    regions = engine.ask(frame, ask).regions
    assert len(regions) == len(ask.targets), f"{len(regions)} regions"


def cpu_seconds(run: Callable[[], object]) -> float:
    begun = time.process_time()
    run()
    return time.process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lisa-random-") as folder:
        write_checkpoint(Path(folder), SIZES[args.size])
        segmenter = Segmenter.from_checkpoint(folder, device="cpu", precision="fp32")
    side = 4 * segmenter.lisa.input_size // 64
    noise = torch.randn(1, 256, side, side, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in ways(segmenter)}
    for number in range(args.rounds + 1):
        rgb = rng.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        for name, (engine, ask) in ways(segmenter).items():
            seconds = cpu_seconds(partial(answer, engine, ask, rgb, noise))
            if number:  # the first round warms up
                times[name].append(seconds)
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:22}{value:8.3f} s {value / median['one target']:6.2f}")
    about = {"size": args.size, "rounds": args.rounds, "machine": machine(), "load_average": os.getloadavg()[0]}
    print(json.dumps({"benchmark": "relatives_speed", **about, "seconds": times}))


if __name__ == "__main__":
    main()
