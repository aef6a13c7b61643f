"""``lisa evaluate``: score a model on a data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.atomic import check_outputs, is_stream, replacing
from lisa_ros.cli import model
from lisa_ros.cli.data_set import FORMATS, Pictures, add_data_arguments
from lisa_ros.cli.model import load
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.errors import ConfigError
from lisa_ros.evaluation.examples import Example, Picture
from lisa_ros.evaluation.journal import Journal
from lisa_ros.evaluation.report import Gallery, summarise, table
from lisa_ros.evaluation.run import AskPicture, Outcome, PictureResult, ask_in_order, collect
from lisa_ros.evaluation.targets import Judge, Judgement, evaluate_targets, target_table
from lisa_ros.plain_text import escaped


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"Measure gIoU and cIoU of a model on a data set: {FORMATS}"
    parser.epilog = (
        "After an interruption, run the same command again: with --json, and without --html, it continues where it "
        "stopped."
    )
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
    model.add_workers_argument(parser, "pictures")
    parser.add_argument("--json", type=Path, default=None, help="write the scores to this file")
    parser.add_argument("--html", type=Path, default=None, help="write a page with examples to this file")
    parser.add_argument(
        "--restart", action="store_true", help="remove the unfinished work of an interrupted run, and begin again"
    )
    model.add_model_arguments(parser)


def main(args: argparse.Namespace) -> int:
    check_outputs({"--json": args.json, "--html": args.html})
    model.options(args)
    if args.workers != 1 and args.protocol != "commands":
        raise ConfigError(f"--workers {args.workers} is for --protocol commands; leave one of the two out")
    model.check_workers(args)
    pictures = Pictures(args)  # a wrong folder fails before the model is loaded
    if args.protocol != "commands":
        return _evaluate_targets(args, load(args), pictures)
    gallery = Gallery(seed=args.seed)
    ask = AskPicture(not args.no_teacher_forced, args.seed, masks=args.html is not None)
    # The page needs masks, which a journal does not have.
    journal = (
        Journal(args.json, _description(args)) if args.json and not args.html and not is_stream(args.json) else None
    )

    def show(outcome: Outcome, picture: Picture, example: Example, mask: NDArray[np.bool_]) -> None:
        gallery.add(outcome, picture.rgb, example.truth, mask)

    results = _results(args, ask, iter(pictures), journal)
    first = next(results)
    info = first[1].info
    outcomes = collect(chain([first], results), None if args.html is None else show)
    report = summarise(outcomes) | {
        "model": info.name,
        "data": args.data.name,
        "pictures": pictures.done,
        "precision": info.precision,
        "device": info.device,
    }
    print(escaped(table(report)))
    if args.json is not None:
        with replacing(args.json) as unfinished:
            unfinished.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    if args.html is not None:
        with replacing(args.html) as unfinished:
            unfinished.write_text(gallery.page(), "utf-8")
    if journal is not None:
        journal.remove()
    return 0


def _results(
    args: argparse.Namespace, ask: AskPicture, pictures: Iterator[Picture], journal: Journal | None
) -> Iterator[tuple[Picture, PictureResult]]:
    """The result of each picture, in order: first those of an earlier run."""
    done = journal.read(args.restart) if journal is not None else []
    if done:
        print(f"continues at picture {len(done) + 1}")
    for name, result in done:
        picture = next(pictures, None)
        if picture is None or picture.name != name:
            raise ConfigError(f"{args.data} is not as it was when picture {name} was asked about; add --restart")
        yield picture, result
    new = _asked(args, ask, pictures)
    yield from new if journal is None else journal.keep(new)


def _asked(
    args: argparse.Namespace, ask: AskPicture, pictures: Iterator[Picture]
) -> Iterator[tuple[Picture, PictureResult]]:
    first = next(pictures, None)
    if first is None:
        return
    waiting = chain([first], pictures)
    if isinstance(args.workers, str):
        with model.ray_tasks(args) as tasks:
            yield from tasks.map(ask, ((picture, picture) for picture in waiting))
    else:
        yield from ask_in_order(model.load_clients(args), ask, waiting)


def _description(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that decides the outcomes."""
    names = ("split", "split_by", "limit", "seed", "no_teacher_forced", "model", "device", "precision")
    places = {name: str(path.resolve()) for name in ("data", "images") if (path := getattr(args, name)) is not None}
    return {**{name: getattr(args, name) for name in names}, **places, "options": model.options(args)}


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
