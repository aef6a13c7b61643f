"""~/markers: boxes and labels in RViz, for the last result and for what is followed of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from lisa_ros.engine.api import Region
from lisa_ros.perception.geometry import Object3D
from lisa_ros.perception.overlay import COLOURS
from lisa_ros.perception.tracking import State
from lisa_ros.ros.follower import Sighting
from lisa_ros.ros.messages import object_message, point
from lisa_ros.ros.parameters import Parameters
from lisa_ros.runtime.requests import Result

BOX, EDGES, LABEL = "box", "edges", "label"  # namespaces; an id is the mask's label in each
OPACITY = 0.25
EDGE_M, LETTER_M = 0.002, 0.02
TRACKED_S = 1  # a box that is followed and not measured again vanishes
LONGEST_LABEL = 40
# Corners of OrientedBox are counted in binary: two of them share an edge when one bit differs.
PAIRS = [(a, a | bit) for a in range(8) for bit in (1, 2, 4) if not a & bit]


class Markers:
    """A followed thing has the namespaces and the id that it had in the answer, so its box moves."""

    def __init__(self, publisher: Any, parameters: Callable[[], Parameters]) -> None:
        self._publisher = publisher
        self._parameters = parameters

    def take_result(self, result: Result) -> None:
        """Boxes of the result instead of all that was there before."""
        if result.frame is None:
            return
        lifetime_s = self._parameters().marker_lifetime_s
        lifetime = Duration(sec=int(lifetime_s), nanosec=int(lifetime_s % 1 * 1e9))
        names = phrases_of(result.regions)
        self._publish([everything(), *markers(result.header, result.objects, result.command, names, lifetime)])

    def seen(self, sighting: Sighting) -> None:
        """Boxes where the things are now; none of what is lost."""
        if sighting.ended:
            self.clear()
            return
        lost = [one.id for one in sighting.tracked if one.state is State.LOST]
        gone = [Marker(ns=name, id=label, action=Marker.DELETE) for label in lost for name in (BOX, EDGES, LABEL)]
        followed = sighting.followed
        lifetime = Duration(sec=TRACKED_S)
        boxes = markers(sighting.header, sighting.objects, followed.command, followed.phrases, lifetime)
        if gone or boxes:
            self._publish([*gone, *boxes])

    def clear(self) -> None:
        """Nothing is shown any more."""
        self._publish([everything()])

    def _publish(self, markers: list[Marker]) -> None:
        self._publisher.publish(MarkerArray(markers=markers))


def everything() -> Marker:
    """The marker that deletes all the others."""
    return Marker(action=Marker.DELETEALL)


def phrases_of(regions: Sequence[Region]) -> dict[int, str]:
    """What the engine calls each label, where it does."""
    return {region.mask.label: region.phrase for region in regions if region.phrase}


def markers(
    header: Header, things: Sequence[Object3D], command: str, phrases: Mapping[int, str], lifetime: Duration
) -> list[Marker]:
    """A translucent box, its edges and a label for everything that has a box.

    phrases: by label; a thing without one is labelled with the command.
    """
    return [
        marker
        for thing in things
        for marker in _markers_of(header, thing, phrases.get(thing.label, "") or command, lifetime)
    ]


def _markers_of(header: Header, thing: Object3D, words: str, lifetime: Duration) -> list[Marker]:
    if thing.box is None:
        return []
    box = object_message(thing)
    red, green, blue = (value / 255 for value in COLOURS[(thing.label - 1) % len(COLOURS)])  # as on ~/overlay
    solid = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    common = {"header": header, "id": thing.label, "lifetime": lifetime}
    corners = [point(corner) for corner in thing.box.corners]
    above = Pose(position=Point(x=box.box.position.x, y=min(c.y for c in corners), z=box.box.position.z))
    above.position.y -= LETTER_M
    return [
        Marker(
            ns=BOX,
            type=Marker.CUBE,
            pose=box.box,
            scale=box.size,
            color=ColorRGBA(r=red, g=green, b=blue, a=OPACITY),
            **common,
        ),
        Marker(
            ns=EDGES,
            type=Marker.LINE_LIST,
            scale=Vector3(x=EDGE_M),
            color=solid,
            points=[corners[end] for pair in PAIRS for end in pair],
            **common,
        ),
        Marker(
            ns=LABEL,
            type=Marker.TEXT_VIEW_FACING,
            pose=above,
            scale=Vector3(z=LETTER_M),
            color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0),
            text=label_of(thing, words),
            **common,
        ),
    ]


def label_of(thing: Object3D, words: str) -> str:
    """What it is, and how large."""
    assert thing.box is not None
    words = words if len(words) <= LONGEST_LABEL else f"{words[: LONGEST_LABEL - 3]}..."
    sides = " x ".join(f"{100 * side:.0f}" for side in thing.box.size)
    return f"{thing.label}: {words}\n{sides} cm"
