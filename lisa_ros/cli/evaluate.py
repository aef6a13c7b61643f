"""``lisa evaluate``: score a model on a data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lisa_ros import load_engine
from lisa_ros.atomic import check_outputs, replacing
from lisa_ros.cli import model
from lisa_ros.cli.data_set import FORMATS, Pictures, add_data_arguments, positive_count
from lisa_ros.cli.model import load
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.examples import Example, Picture
from lisa_ros.evaluation.report import Gallery, summarise, table
from lisa_ros.evaluation.run import Outcome, evaluate
from lisa_ros.evaluation.targets import Judge, Judgement, evaluate_targets, target_table
from lisa_ros.plain_text import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"Measure gIoU and cIoU of a model on a data set: {FORMATS}"
    add_data_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="random seed of baselines and of examples for --html (0)")
    parser.add_argument(
        "--protocol",
        choices=("commands", "targets", "gsva"),
        default="commands",
        help="commands: one question for each (the default). targets: one question for all of a picture, scored "
        "strictly. gsva: GSVA's own figures too, for its models",
    )
    parser.add_argument("--no-teacher-forced", action="store_true", help="skip the teacher-forced scores")
    parser.add_argument(
        "--workers",
        type=positive_count,
        default=1,
        metavar="N",
        help="pictures at once (1); more than 1 is for a server with replicas (lisa serve --ray)",
    )
    parser.add_argument("--json", type=Path, default=None, help="write the scores to this file")
    parser.add_argument("--html", type=Path, default=None, help="write a page with examples to this file")
    model.add_model_arguments(parser)


def main(args: argparse.Namespace) -> int:
    check_outputs({"--json": args.json, "--html": args.html})
    model.options(args)
    if args.workers > 1 and args.protocol != "commands":
        raise ConfigError(f"--workers {args.workers} is for --protocol commands; leave one of the two out")
    model.check_workers(args)
    pictures = Pictures(args)  # a wrong folder fails before the model is loaded
    engine = load(args)
    if args.protocol != "commands":
        return _evaluate_targets(args, engine, pictures)
    more = [load_engine(args.model, options=model.options(args)) for _ in range(args.workers - 1)]
    gallery = Gallery(seed=args.seed)

    def show(outcome: Outcome, picture: Picture, example: Example, mask: NDArray[np.bool_]) -> None:
        gallery.add(outcome, picture.rgb, example.truth, mask)

    outcomes = evaluate(
        engine,
        pictures,
        forced=not args.no_teacher_forced,
        seed=args.seed,
        more_engines=more,
        on_outcome=None if args.html is None else show,
    )
    report = summarise(outcomes) | {
        "model": engine.info.name,
        "data": args.data.name,
        "pictures": pictures.done,
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


def _evaluate_targets(args: argparse.Namespace, engine: SupportedEngine, pictures: Iterable[Picture]) -> int:
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
