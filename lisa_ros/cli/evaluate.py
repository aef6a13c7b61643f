"""``lisa evaluate``: score a model on a data set."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros.atomic import check_outputs, replacing
from lisa_ros.cli import model
from lisa_ros.cli.model import load
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.examples import Example, Picture, read_pictures
from lisa_ros.evaluation.report import Gallery, summarise, table
from lisa_ros.evaluation.run import Outcome, evaluate
from lisa_ros.evaluation.targets import Judge, Judgement, evaluate_targets, target_table
from lisa_ros.plain_text import escaped


def positive_count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure gIoU and cIoU of a model on a data set: scenes of `lisa scenes`, ReasonSeg, or RefCOCO and its "
        "relatives (RefCOCO+, RefCOCOg, RefCLEF, gRefCOCO, Ref-ZOM, R-RefCOCO, FP-RefCOCO). --split, --split-by and "
        "--images are for RefCOCO and its relatives."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--split", help="val (the default), testA, testB, test, ...")
    parser.add_argument("--split-by", help="author of the split (default: umd for refcocog, else unc)")
    parser.add_argument("--images", type=Path, help="folder of the pictures (default: images/ beside the data set)")
    parser.add_argument("--limit", type=positive_count, default=None, help="use only the first LIMIT pictures")
    parser.add_argument("--seed", type=int, default=0, help="random seed of baselines and of examples for --html (0)")
    parser.add_argument(
        "--protocol",
        choices=("commands", "targets", "gsva"),
        default="commands",
        help="commands: one question for each (the default). targets: one question for all of a picture, scored "
        "strictly. gsva: GSVA's own figures too, for its models",
    )
    parser.add_argument("--no-teacher-forced", action="store_true", help="skip the teacher-forced scores")
    parser.add_argument("--json", type=Path, default=None, help="write the scores to this file")
    parser.add_argument("--html", type=Path, default=None, help="write a page with examples to this file")
    model.add_model_arguments(parser)


def main(args: argparse.Namespace) -> int:
    check_outputs({"--json": args.json, "--html": args.html})
    model.options(args)
    pictures = read_pictures(args.data, split=args.split, split_by=args.split_by, images=args.images)
    with_examples = (picture for picture in islice(pictures, args.limit) if picture.examples)
    first = next(with_examples, None)  # a wrong folder fails before the model is loaded
    if first is None:
        raise ConfigError(
            f"{args.data} has no picture with a command; use a folder of `lisa scenes`, of ReasonSeg's pairs or of "
            "RefCOCO's family"
        )
    engine = load(args)
    if args.protocol != "commands":
        return _evaluate_targets(args, engine, chain([first], with_examples))
    gallery = Gallery(seed=args.seed)
    begun, done = time.monotonic(), 0

    def counted() -> Iterator[Picture]:
        nonlocal done
        for picture in chain([first], with_examples):
            yield picture
            done += 1
            if sys.stderr.isatty():
                print(f"\r{done} pictures, {time.monotonic() - begun:.0f} s", end="", file=sys.stderr, flush=True)

    def show(outcome: Outcome, picture: Picture, example: Example, mask: NDArray[np.bool_]) -> None:
        gallery.add(outcome, picture.rgb, example.truth, mask)

    outcomes = evaluate(
        engine,
        counted(),
        forced=not args.no_teacher_forced,
        seed=args.seed,
        on_outcome=None if args.html is None else show,
    )
    report = summarise(outcomes) | {
        "model": engine.info.name,
        "data": args.data.name,
        "pictures": done,
        "precision": engine.info.precision,
        "device": engine.info.device,
    }
    print(escaped(table(report)))
    if args.json is not None:
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    if args.html is not None:
        with replacing(args.html) as unfinished:
            unfinished.write_text(gallery.page(), "utf-8")
    return 0


def _evaluate_targets(args: argparse.Namespace, engine: SupportedEngine, pictures: Iterator[Picture]) -> int:
    if args.html is not None:
        raise ConfigError("--html is for --protocol commands; leave one of the two out")
    scores = evaluate_targets(engine, pictures, _judge(engine) if args.protocol == "gsva" else None)
    figures = scores.figures()
    print(escaped(target_table(figures)))
    if args.json is not None:
        content = {"model": engine.info.name, "data": args.data.name, "pictures": scores.pictures, **figures}
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    return 0


def _judge(engine: SupportedEngine) -> Judge:
    """GSVA's teacher-forced verdicts. Raises ConfigError for an engine that is no GSVA."""
    from lisa_ros.lisa.judge import judge  # here: it imports torch
    from lisa_ros.lisa.segmenter import Segmenter

    segmenter = engine.engine
    if not isinstance(segmenter, Segmenter) or segmenter.family.name != "gsva":
        raise ConfigError(f"protocol gsva is for models of GSVA; use targets or commands for {engine.info.name}")

    def judged(encoded: Encoded, names: Sequence[str], present: Sequence[bool]) -> list[Judgement]:
        return [Judgement(*one) for one in judge(segmenter, encoded.value, names, present)]

    return judged
