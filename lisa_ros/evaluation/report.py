"""Outcomes as numbers (JSON), as a table for the terminal, and as a page of examples to look at."""

from __future__ import annotations

import base64
import html
import random
from collections import defaultdict
from collections.abc import Callable, Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from lisa_ros.evaluation.metrics import Overlap, ciou, giou
from lisa_ros.evaluation.reliability import reliability, reliability_table
from lisa_ros.evaluation.run import MAX_ANSWER, Outcome
from lisa_ros.plain_text import escaped


def _scores(overlaps: list[Overlap]) -> dict[str, float | int]:
    return {"gIoU": round(giou(overlaps), 4), "cIoU": round(ciou(overlaps), 4), "n": len(overlaps)}


def _forced(outcomes: list[Outcome]) -> dict[str, float | int | None]:
    """Scores with the true answer given; null where it was not measured."""
    overlaps = [o.forced for o in outcomes if o.forced is not None]
    return dict(_scores(overlaps)) if overlaps else {"gIoU": None, "cIoU": None, "n": 0}


def _grouped(outcomes: list[Outcome], key: Callable[[Outcome], str | None]) -> dict[str, dict[str, float | int]]:
    """The scores of each group; outcomes whose key is None are in none."""
    groups: dict[str, list[Overlap]] = defaultdict(list)
    for outcome in outcomes:
        if (name := key(outcome)) is not None:
            groups[name].append(outcome.free)
    return {name: _scores(groups[name]) for name in sorted(groups)}


def _where_known(value: bool | None, yes: str, no: str) -> str | None:
    return None if value is None else yes if value else no


def _refused(outcomes: list[Outcome]) -> dict[str, float | int]:
    refused = sum(not o.found for o in outcomes)
    return {"refused": round(refused / len(outcomes), 4) if outcomes else 0.0, "n": len(outcomes)}


def _seconds(values: Iterable[float]) -> dict[str, float | int]:
    times = list(values)
    if not times:
        return {"p50": 0.0, "p95": 0.0, "n": 0}
    return {
        "p50": round(float(np.quantile(times, 0.5)), 4),
        "p95": round(float(np.quantile(times, 0.95)), 4),
        "n": len(times),
    }


def summarise(outcomes: list[Outcome]) -> dict:
    """All figures, as written to JSON.

    gIoU and cIoU are over questions with a target in the picture; the others are counted under ``absent``.
    ``gIoU_with_absent`` is LISA's formula over all questions (an empty answer for an absent target is 1). A target is
    rejected (``refused``) where the answer has no region. ``N_acc`` and ``T_acc`` are gRefCOCO's: an absent target is
    right where the mask has no pixel, whatever the text says, and a present one where it has some. ``cut`` counts the
    answers that were cut off at ``MAX_ANSWER`` tokens; null where the engine does not say how long its answers are.
    """
    there = [o for o in outcomes if not o.question.absent]
    absent = [o for o in outcomes if o.question.absent]
    explained = [o for o in there if o.question.turns[-1].explain]
    refused, missed = _refused(absent), _refused(there)
    return _scores([o.free for o in there]) | {
        "gIoU_with_absent": round(giou([o.free for o in outcomes]), 4),
        "by_kind": _grouped(there, lambda o: o.question.kind),
        "by_length": _grouped(there, lambda o: o.question.length),
        "by_size": _grouped(there, lambda o: o.size),
        "by_phrasing": _grouped(there, lambda o: _where_known(o.question.held_out, "held out", "trained")),
        "by_instance": _grouped(there, lambda o: _where_known(o.question.new_model, "never trained", "trained")),
        "over_half": round(float(np.mean([o.free.iou > 0.5 for o in there])), 4) if there else 0.0,
        "absent": refused,
        "present": missed,
        "N_acc": round(float(np.mean([not o.drawn for o in absent])), 4) if absent else 0.0,
        "T_acc": round(float(np.mean([o.drawn for o in there])), 4) if there else 0.0,
        "absent_by_kind": {
            kind: _refused([o for o in absent if o.question.kind == kind])
            for kind in sorted({o.question.kind for o in absent})
        },
        "explanations": {
            "named_right": round(float(np.mean([o.named for o in explained])), 4) if explained else 0.0,
            "n": len(explained),
        },
        "cut": sum(o.cut for o in outcomes if o.cut) if any(o.cut is not None for o in outcomes) else None,
        "reliability": reliability([mask for o in outcomes for mask in o.masks]),
        "teacher_forced": _forced(there),
        "time_to_mask_s": _seconds(o.to_mask_s for o in outcomes if o.to_mask_s is not None and o.first),
        "next_command_s": _seconds(o.to_mask_s for o in outcomes if o.to_mask_s is not None and not o.first),
        "baselines": {
            name: _scores([o.baselines[name] for o in there if name in o.baselines])
            for name in (there[0].baselines if there else ())
        },
    }


def table(report: dict) -> str:
    """The figures as a table for the terminal."""
    rows: list[tuple[str, dict | None]] = [("all targets in the picture", report)]
    rows += [("  teacher-forced", report["teacher_forced"])] if report["teacher_forced"]["n"] else []
    for title in ("by_kind", "by_length", "by_size", "by_phrasing", "by_instance", "baselines"):
        rows += [(title.replace("_", " "), None)] if report[title] else []
        rows += [(f"  {name}", scores) for name, scores in report[title].items()]
    lines = [f"{'':32}{'gIoU':>8}{'cIoU':>8}{'n':>8}"]
    for name, scores in rows:
        lines.append(name if scores is None else f"{name:32}{scores['gIoU']:8.3f}{scores['cIoU']:8.3f}{scores['n']:8d}")
    lines += [f"all questions, absent targets included: gIoU {report['gIoU_with_absent']:.3f}"]
    refused = [("absent targets rejected", report["absent"]), ("present targets rejected", report["present"])]
    refused[1:1] = [(f"  {kind}", one) for kind, one in report["absent_by_kind"].items()]
    lines += [f"{name:25}{one['refused']:.1%} of {one['n']}" for name, one in refused]
    lines += [f"absent without a mask (N-acc) {report['N_acc']:.1%}, present with one (T-acc) {report['T_acc']:.1%}"]
    lines += reliability_table(report["reliability"])
    words = report["explanations"]
    lines += [f"explanations that name the target {words['named_right']:.1%} of {words['n']}"]
    lines += [f"answers cut off after {MAX_ANSWER} tokens: {report['cut']}"] if report["cut"] else []
    for title, key in (("first command on a frame", "time_to_mask_s"), ("next commands", "next_command_s")):
        times = report[key]
        middle, slow = times["p50"] * 1e3, times["p95"] * 1e3
        lines.append(f"time to mask, {title}: median {middle:.0f} ms, p95 {slow:.0f} ms, n {times['n']}")
    return "\n".join(lines)


class Gallery:
    """An HTML page of the worst, the best and random examples. Only these are kept in memory, for any data set."""

    def __init__(self, count: int = 12, seed: int = 0):
        self._count, self._rng, self._seen = count, random.Random(seed), 0
        self._worst: list[tuple[float, str]] = []
        self._best: list[tuple[float, str]] = []
        self._random: list[tuple[float, str]] = []

    def add(self, outcome: Outcome, rgb: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> None:
        """rgb: (H, W, 3) uint8. truth: (H, W), 1 where the target is. mask: (H, W) bool, the answer's."""
        self._seen += 1
        # Reservoir sampling (Vitter, 1985): every example is equally likely to be shown.
        place = self._rng.randrange(self._seen) if self._seen > self._count else self._seen - 1
        extremes = [(self._worst, 1), (self._best, -1)]
        score = outcome.free.iou
        joins = [(k, s) for k, s in extremes if len(k) < self._count or s * score < s * k[-1][0]]
        if not joins and place >= self._count:
            return
        shown = score, _figure(outcome, rgb, truth, mask)
        for extreme, sign in joins:
            extreme.append(shown)
            extreme.sort(key=lambda one: sign * one[0])
            del extreme[self._count :]
        if place < self._count:
            self._random[place : place + 1] = [shown]

    def page(self) -> str:
        """The page as HTML, images included."""
        parts = ["<!doctype html><meta charset=utf-8><title>lisa evaluate</title>"]
        box = "figure{display:inline-block;width:330px;vertical-align:top;margin:6px}"
        parts.append(f"<style>body{{font:14px sans-serif}}{box}</style>")
        parts.append("<p>Green: in both. Red: in the answer only. Blue: in the truth only.</p>")
        for title, chosen in (("Worst", self._worst), ("Random", self._random), ("Best", self._best)):
            parts.append(f"<h2>{title}</h2>")
            parts += [figure for _, figure in chosen]
        return "\n".join(parts)


def _figure(outcome: Outcome, rgb: NDArray[np.uint8], truth: NDArray[np.uint8], mask: NDArray[np.bool_]) -> str:
    true = truth == 1
    image = rgb.astype(np.float32)
    for where, colour in ((mask & true, (0, 200, 0)), (mask & ~true, (230, 0, 0)), (true & ~mask, (0, 80, 255))):
        image[where] = 0.45 * image[where] + 0.55 * np.array(colour, np.float32)
    bgr = np.ascontiguousarray(image.astype(np.uint8)[..., ::-1])
    data = base64.b64encode(cv2.imencode(".jpg", bgr)[1].tobytes()).decode()
    commands = " / ".join(turn.command for turn in outcome.question.turns)
    caption = f"{_html(outcome.question.kind)}, IoU {outcome.free.iou:.2f}: <b>{_html(commands)}</b><br>"
    caption += _html(outcome.answer)
    return f'<figure><img width=320 src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _html(text: str) -> str:
    """The text for a page, without its control characters."""
    return html.escape(escaped(text))
