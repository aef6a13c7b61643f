"""Commands in fresh scenes, without ROS: for benchmarks and tests of everything but the transport."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, MaskCrop, crop_mask
from lisa_ros.perception.geometry import Object3D, locate, pieces_of, suction_candidates
from lisa_sim.cell import Cell
from lisa_sim.picking import CannotReach, Outcome, Picker, Point, Seen, Trouble, Verdict
from lisa_sim.robot import DOWN, Pose, Unreachable
from lisa_sim.scenario import Episode, depth_of
from lisa_small.scenes.render import Frame


class DirectArm:
    """A cell's robot as a picker's arm, in the same process.

    on_step: is called after every physics step, for films.
    """

    def __init__(self, cell: Cell, on_step: Callable[[], None] | None = None) -> None:
        self.cell, self.on_step = cell, on_step

    def move_to(self, position: NDArray[np.float64], guarded: bool = False) -> None:
        try:
            motion = self.cell.robot.move_to(Pose(position, DOWN), guarded)
        except Unreachable as error:
            raise CannotReach(str(error)) from error
        self._run(motion)

    def grip(self) -> None:
        self.cell.cup.on = True

    def release(self) -> None:
        self.cell.cup.release()
        self._run(None for _ in range(150))

    def holds(self) -> bool:
        return self.cell.cup.held is not None

    def park(self) -> None:
        self._run(self.cell.robot.park())

    def position(self) -> NDArray[np.float64]:
        return self.cell.robot.pose.position

    def _run(self, motion: Iterator[None]) -> None:
        for _ in motion:
            self.cell.step()
            if self.on_step is not None:
                self.on_step()


OUT_OF_REACH = "out of reach"
"""The cause of a failure that is the robot's place, not a fault."""

BESIDE_IOU = 0.1  # masks with less are of something else
SETTLE_STEPS = 250  # half a second, before the truth is read

Masks = Callable[[Frame, str], Sequence[MaskCrop]]


@dataclass
class Glance:
    """One look: the frame, the masks of the answer, and what was made of them."""

    frame: Frame
    crops: Sequence[MaskCrop]
    seen: Sequence[Seen]


class DirectEyes:
    """A cell's camera as a picker's eyes. masks: the answer to a command about a frame. glances: every look so far."""

    def __init__(self, cell: Cell, masks: Masks) -> None:
        self.cell, self.masks = cell, masks
        self.glances: list[Glance] = []

    def ask(self, command: str) -> Sequence[Seen]:
        frame = self.cell.look()
        crops = self.masks(frame, command)
        depth = depth_of(frame)
        pose = self.cell.camera_pose
        things = [locate(crop, depth, self.cell.camera) for crop in crops]
        pieces = [piece for thing in things if len(thing.points) for piece in pieces_of(thing)]
        seen = [seen_from(piece, pose) for piece in sorted(pieces, key=lambda piece: -len(piece.points))]
        self.glances.append(Glance(frame, crops, seen))
        return seen


def seen_from(thing: Object3D, pose: NDArray[np.float64]) -> Seen:
    """An object in the world. pose: (4, 4) from the camera's optical frame to the world."""
    turn, origin = pose[:3, :3], pose[:3, 3]
    middle = turn @ (thing.centroid if thing.box is None else thing.box.centre) + origin
    candidates = suction_candidates(thing, turn.T @ [0, 0, 1])
    grips = [Point(turn @ one.point + origin, turn @ one.normal, one.score) for one in candidates]
    return Seen(middle, grips)


def true_masks(targets: Sequence[int]) -> Masks:
    """Masks as a model without a fault would give them."""

    def masks(frame: Frame, command: str) -> list[MaskCrop]:
        crops = [crop_mask(frame.ids == target + 1, label, 1.0) for label, target in enumerate(targets, 1)]
        return [crop for crop in crops if crop.area]

    return masks


def model_masks(engine: Any) -> Masks:
    """Masks of an engine. Each command is a conversation of its own."""

    def masks(frame: Frame, command: str) -> list[MaskCrop]:
        return [region.mask for region in engine.ask(engine.encode(frame.rgb), Ask(command)).regions]

    return masks


@dataclass
class Report:
    """How an episode ended, with the truth that the robot does not know."""

    episode: Episode
    outcome: Outcome
    in_tray: tuple[int, ...]
    cause: str
    iou: float
    glances: list[Glance]

    @property
    def ok(self) -> bool:
        """Exactly one object lies in the tray, and it is a target."""
        return not self.cause


def run_episode(episode: Episode, cell: Cell, masks: Masks, on_step: Callable[[], None] | None = None) -> Report:
    """Carries out an episode's command in its cell."""
    eyes = DirectEyes(cell, masks)
    outcome = Picker(DirectArm(cell, on_step), eyes, cell.tray, cell.robot.travel_m).pick(episode.command)
    cell.step(SETTLE_STEPS)
    in_tray = cell.in_tray()
    first = eyes.glances[0]
    truth = np.isin(first.frame.ids, [target + 1 for target in episode.targets])
    iou = iou_of(first.crops, truth)
    cause = cause_of(episode, outcome, in_tray, iou)
    return Report(episode, outcome, tuple(in_tray), cause, iou, eyes.glances)


def cause_of(episode: Episode, outcome: Outcome, in_tray: list[int], iou: float) -> str:
    """Why an episode failed; empty where it did not. iou: of the first masks with the truth."""
    if len(in_tray) == 1:
        return "" if in_tray[0] in episode.targets else "wrong object"
    if in_tray:
        return "several objects"
    if outcome.verdict is Verdict.NOT_FOUND:
        return "no mask"
    if iou < BESIDE_IOU:
        return "wrong object"
    troubles = set(outcome.troubles) - {Trouble.STILL_THERE, Trouble.NO_POINT}
    if troubles == {Trouble.OUT_OF_REACH}:
        return OUT_OF_REACH
    return "no grip" if troubles == {Trouble.NO_GRIP} else "dropped"


def iou_of(crops: Sequence[MaskCrop], truth: NDArray[np.bool_]) -> float:
    """Of the union of masks with the truth (H, W)."""
    union = np.zeros(truth.shape, bool)
    for crop in crops:
        union[crop.y : crop.y + crop.height, crop.x : crop.x + crop.width] |= crop.pixels > 0
    return int(np.count_nonzero(union & truth)) / max(int(np.count_nonzero(union | truth)), 1)
