"""Scores of several targets an image, of which some are absent: GSVA's own definition, and a strict one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.data.truth import IGNORED
from lisa_ros.engine.api import Ask
from lisa_ros.engine.support import Encoded, SupportedEngine
from lisa_ros.errors import CommandError
from lisa_ros.evaluation.examples import Picture
from lisa_ros.perception.masks import union_image


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a model says about one target.

    Args:
        present: Whether it is in the image, by the model.
        mask: (H, W) bool.
    """

    present: bool
    mask: NDArray[np.bool_]


@dataclass
class GsvaScore:
    """GSVA's own figures, over targets.

    An absent target that is rejected counts 1 for gIoU and nothing for cIoU; one that is not rejected counts 0, and its
    mask enters the union. The IoU of a present target is that of its mask even if the model rejects it.
    """

    rejected_absent: int = 0
    accepted_absent: int = 0
    accepted_present: int = 0
    rejected_present: int = 0
    ious: float = 0.0
    intersection: int = 0
    union: int = 0

    def add(self, judgement: Judgement, truth: NDArray[np.uint8]) -> None:
        """truth: (H, W) of 0, 1 and IGNORED."""
        counts, true = truth != IGNORED, truth == 1
        mask = judgement.mask & counts
        if not true.any():
            if judgement.present:
                self.accepted_absent += 1
                self.union += int(mask.sum())
            else:
                self.rejected_absent += 1
                self.ious += 1.0
            return
        self.accepted_present += judgement.present
        self.rejected_present += not judgement.present
        intersection, union = int((mask & true).sum()), int((mask | true).sum())
        self.intersection, self.union = self.intersection + intersection, self.union + union
        self.ious += intersection / (union + 1e-8)

    def figures(self) -> dict[str, float | int | None]:
        """gIoU, cIoU, N_acc and T_acc; null where a split has no such target."""
        absent = self.rejected_absent + self.accepted_absent
        present = self.accepted_present + self.rejected_present
        return {
            "gIoU": self.ious / (absent + present + 1e-5),
            "cIoU": self.intersection / (self.union + 1e-10),
            "N_acc": self.rejected_absent / absent if absent else None,
            "T_acc": self.accepted_present / present if present else None,
            "n": absent + present,
            "absent": absent,
        }


@dataclass
class StrictScore(GsvaScore):
    """The same figures, where a rejected or unanswered target is an empty mask, and an empty mask is a rejection."""

    def add(self, judgement: Judgement, truth: NDArray[np.uint8]) -> None:
        drawn = judgement.mask if judgement.present else np.zeros_like(judgement.mask)
        super().add(Judgement(bool(drawn.any()), drawn), truth)


Judge = Callable[[Encoded, Sequence[str], Sequence[bool]], list[Judgement]]
"""An image, names and whether each is present -> what the model says while it is given the true answer."""


@dataclass
class TargetScores:
    """Both rows. reference: teacher-forced, None without such a model. strict: of freely generated answers."""

    strict: StrictScore = field(default_factory=StrictScore)
    reference: GsvaScore | None = None
    pictures: int = 0

    def figures(self) -> dict[str, Any]:
        rows = {"strict": self.strict.figures()}
        if self.reference is not None:
            rows["gsva"] = self.reference.figures()
        return rows


def evaluate_targets(engine: SupportedEngine, pictures: Iterable[Picture], judge: Judge | None = None) -> TargetScores:
    """Ask for all targets of each picture in one conversation.

    Args:
        engine: Is asked.
        pictures: Their examples are the targets.
        judge: For the reference's figures; None: without.
    """
    scores = TargetScores(reference=GsvaScore() if judge is not None else None)
    for picture in pictures:
        names = [name_of(example.question.turns[-1].command) for example in picture.examples]
        truths = [example.truth for example in picture.examples]
        encoded = engine.encode(picture.rgb)
        for judgement, truth in zip(answered(engine, encoded, names), truths, strict=True):
            scores.strict.add(judgement, truth)
        if judge is not None and scores.reference is not None:
            present = [bool((truth == 1).any()) for truth in truths]
            for judgement, truth in zip(judge(encoded, names, present), truths, strict=True):
                scores.reference.add(judgement, truth)
        scores.pictures += 1
    return scores


def answered(engine: SupportedEngine, encoded: Encoded, names: Sequence[str]) -> list[Judgement]:
    """What the engine answers about each name. A name that cannot be in a list is asked for by itself."""
    together: list[str] = []
    alone: list[str] = []
    for name in dict.fromkeys(names):
        (alone if ", " in name or name.endswith(",") else together).append(name)
    found: dict[str, NDArray[np.bool_]] = {}
    if together:
        answer = engine.ask(encoded, Ask(targets=tuple(together)))
        for name in together:
            mine = [region.mask for region in answer.regions if region.phrase.casefold() == name.casefold()]
            found[name] = union_image(mine, encoded.size) > 0
    for name in alone:
        try:
            answer = engine.ask(encoded, Ask(name))
        except CommandError:  # punctuation alone, for example: no model can be asked for it
            found[name] = np.zeros(encoded.size, bool)
            continue
        found[name] = union_image([region.mask for region in answer.regions], encoded.size) > 0
    return [Judgement(bool(found[name].any()), found[name]) for name in names]


def name_of(command: str) -> str:
    """A referring expression without white space and full stops around it."""
    return command.strip().strip(".").strip()


def target_table(figures: dict[str, Any]) -> str:
    """The figures as a table for the terminal."""
    titles = {
        "gsva": "GSVA's definition (true answer given)",
        "strict": "strict (free answer; rejected = empty mask)",
    }
    lines = [f"{'':46}{'gIoU':>8}{'cIoU':>8}{'N-acc':>8}{'T-acc':>8}{'n':>7}"]
    for row, title in titles.items():
        if (one := figures.get(row)) is None:
            continue
        values = [f"{'-':>8}" if one[key] is None else f"{one[key]:8.4f}" for key in ("gIoU", "cIoU", "N_acc", "T_acc")]
        lines.append(f"{title:46}{''.join(values)}{one['n']:7d}")
    return "\n".join(lines)
