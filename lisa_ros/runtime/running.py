"""The request that the worker has, and what is known of its answer so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lisa_ros.engine.api import Region
from lisa_ros.runtime import worker
from lisa_ros.runtime.requests import Frame, Progress, Request
from lisa_ros.runtime.status import Stage


@dataclass(eq=False)
class Running:
    """A request that the worker has. It may be answered (canceled, timed out) before the worker lets go of it.

    announced: regions as they came, empty ones too. done: the engine's answer, while its masks are measured.
    min_score: regions with less are left out.
    """

    request: Request
    frame: Frame
    min_score: float = 0.0
    stage: Stage = Stage.ENCODING
    partial_answer: str = ""
    announced: list[Region] = field(default_factory=list)
    given_up: float | None = None
    done: worker.Done | None = None

    def take(self, event: worker.StageBegan | worker.PartialText | worker.NewRegions) -> Sequence[Region]:
        """Take in what the engine reports before its answer. Returns the regions that are new."""
        if isinstance(event, worker.StageBegan):
            self.stage = Stage.__members__.get(event.name.upper(), self.stage)
        elif isinstance(event, worker.PartialText):
            self.partial_answer = event.text
        else:
            self.announced += event.regions
            return event.regions
        return ()

    def progress(self, new: Sequence[Region] = ()) -> Progress:
        """What is known now. new: of the announced regions, the ones that no earlier progress had."""
        return Progress(self.stage, self.partial_answer, self.kept(self.announced), len(self.kept(new)), self.frame)

    def kept(self, regions: Sequence[Region]) -> list[Region]:
        """Those that mark anything in the image, with the score that they must have."""
        return [region for region in regions if region.mask.area and region.score >= self.min_score]

    def regions(self, done: worker.Done) -> list[Region]:
        """Of the complete answer, in its order."""
        every = [*self.announced, *done.new]
        regions = [every[index] for index in done.order]
        if done.spans:
            regions = [
                replace(one, spans=tuple(all_), span=None) for one, all_ in zip(regions, done.spans, strict=True)
            ]
        return regions
