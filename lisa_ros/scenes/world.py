"""What people know about things: ``world.yaml`` as values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

TABLE = Path(__file__).with_name("world.yaml")


@dataclass(frozen=True)
class Thing:
    """One class of objects.

    near: classes that people may call by the same name; they never share a scene and are never said to be absent when
    the other is there. paintable: whether it comes in all colours.
    """

    label: str
    near: tuple[str, ...] = ()
    paintable: bool = False


def load_world(path: Path = TABLE) -> dict[str, Thing]:
    table = yaml.safe_load(path.read_text())
    return {
        label: Thing(label, tuple(fields.get("near", ())), fields.get("paintable", False))
        for label, fields in table.items()
    }


WORLD = load_world()
CLASSES = sorted(WORLD)
