"""What goes through the queue: requests, the frames they are about, progress, results and the node's state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lisa_ros.engine.api import Ask, Region, Timings
from lisa_ros.perception.geometry import Object3D
from lisa_ros.perception.labels import PackedLabels
from lisa_ros.runtime.status import Stage, State, Status


class Limits(Protocol):
    """The parameters that the queue reads. They may change while it works."""

    @property
    def model(self) -> str: ...
    @property
    def max_command_length(self) -> int: ...
    @property
    def max_new_tokens(self) -> int: ...
    @property
    def timeout_s(self) -> float: ...
    @property
    def queue_size(self) -> int: ...
    @property
    def stuck_worker_s(self) -> float: ...
    @property
    def early_mask(self) -> bool: ...
    @property
    def min_score(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Frame:
    """The image that a request is about.

    Args:
        header: The source image's, untouched.
        rgb: (H, W, 3) uint8, read-only.
        age_s: Seconds from its stamp to the moment it was taken; 0 without a stamp.
        camera: Name of its camera, or of the one whose calibration and depth belong to a caller's own image.
        sent: The caller sent it with the command; False for the newest frame of a camera.
        source: The camera itself, which knows calibration and depth.
        proposals: Another node's masks of this very image, to choose from; None: the engine has its own.
    """

    header: Any
    rgb: NDArray[np.uint8]
    age_s: float = 0.0
    camera: str = ""
    sent: bool = False
    source: Any = None
    proposals: PackedLabels | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width), pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]


@dataclass(frozen=True)
class Progress:
    """What is known of a request before its result.

    Args:
        stage: What is done now.
        partial_answer: The whole answer so far.
        regions: All regions so far that have pixels.
        new: How many of them, at the end, no earlier progress had.
        frame: The image; None while the request waits.
    """

    stage: Stage
    partial_answer: str = ""
    regions: Sequence[Region] = ()
    new: int = 0
    frame: Frame | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """The one final result of a request.

    Args:
        status: See Segmentation.msg.
        message: What went wrong and how to fix it; empty with SUCCESS.
        request_id: Of the request.
        ask: What was asked.
        header: Of the image; None where the request never got one.
        frame: None unless the engine answered.
        camera: Name of the camera whose frame it is about; empty for the only camera and for a caller's own image.
        session: Name of the conversation; empty without one.
        source: The endpoint of the command: action, service, topic or watch.
        text: What the engine says.
        regions: What it marks, in the order of the text, each with at least one pixel.
        absent: Targets that are not in the image.
        objects: The regions in metres, in the same order, or none of them.
        timings: Seconds.
        model: Name of the engine's model.
        precision: Of the engine.
    """

    status: Status
    message: str
    request_id: str
    ask: Ask
    header: Any = None
    frame: Frame | None = None
    camera: str = ""
    session: str = ""
    source: str = ""
    text: str = ""
    regions: Sequence[Region] = ()
    absent: Sequence[str] = ()
    objects: Sequence[Object3D] = ()
    timings: Timings = field(default_factory=Timings)
    model: str = ""
    precision: str = ""

    @property
    def command(self) -> str:
        """The text of the command, as one line."""
        return self.ask.text


def ignore_progress(progress: Progress) -> None:
    """For callers that want the result only."""
    del progress


@dataclass(eq=False)
class Request:
    """One question, from whichever endpoint.

    Args:
        request_id: Unique while the node lives.
        ask: What is asked, without the history.
        on_result: Called exactly once.
        on_progress: Called before that, any number of times.
        session: Name of the conversation that it continues; empty: none.
        source: The endpoint that it came from: action, service, topic or watch.
        image: The caller's own sensor_msgs/Image; None: the newest frame of ``camera``.
        camera: Name of the camera; empty: the first one.
        timeout_s: From receiving to the result; 0 takes the node's limit.
        background: Nobody waits for it (re-detection, a standing command): it is asked only while nothing else is to be
            done, and given up when a person's command comes.
        published: False for a question of the node's own (re-detection): only its caller hears of it.
    """

    request_id: str
    ask: Ask
    on_result: Callable[[Result], None]
    on_progress: Callable[[Progress], None] = ignore_progress
    session: str = ""
    source: str = ""
    image: Any = None
    camera: str = ""
    timeout_s: float = 0.0
    background: bool = False
    published: bool = True
    received: float = 0.0
    deadline: float = 0.0
    answered: bool = False


@dataclass(frozen=True)
class Measured:
    """The masks of a request in metres, in the same order, or none of them."""

    request_id: str
    objects: Sequence[Object3D]


@dataclass(frozen=True)
class NodeState:
    """What ~/status shows. progress: of loading, in [0, 1]."""

    state: State
    message: str
    progress: float = 1.0
    queued: int = 0
    model: str = ""
    device: str = ""
    precision: str = ""


UNCONFIGURED = NodeState(
    State.UNCONFIGURED, "the node is not configured: it has no model; configure and activate it", 0.0
)
FINALIZED = NodeState(State.FINALIZED, "the node was shut down; start it again", 0.0)
