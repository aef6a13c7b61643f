"""A contact sheet: scenes with a command, its targets in colour and its answer."""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image, ImageDraw

from lisa_ros.data.scene_records import SceneRecord
from lisa_small.scenes.render import Frame

COLUMNS, CELL, TEXT = 4, (320, 240), 62
MARK = np.array([255, 60, 40], np.float32)


class ContactSheet:
    """The first ``limit`` scenes on one sheet."""

    def __init__(self, limit: int = 24) -> None:
        self.limit = limit
        self.cells: list[Image.Image] = []

    def add(self, scene: SceneRecord, frame: Frame) -> None:
        """Adds a scene with its first command, or with the names of its objects where it has no command."""
        if len(self.cells) >= self.limit:
            return
        command, answer, targets = ", ".join(o["class"] for o in scene["objects"]), "", list[int]()
        if scene["conversations"]:
            turn = scene["conversations"][0]["turns"][0]
            command, answer, targets = turn["command"], turn["answer"], turn["targets"]
        mask = np.isin(frame.ids, targets)[..., None]
        rgb = np.where(mask, 0.45 * frame.rgb + 0.55 * MARK, frame.rgb).astype(np.uint8)
        picture = Image.fromarray(rgb)
        picture.thumbnail(CELL)
        cell = Image.new("RGB", (CELL[0] + 8, CELL[1] + TEXT), "white")
        cell.paste(picture, ((cell.width - picture.width) // 2, (CELL[1] - picture.height) // 2))
        words = textwrap.wrap(command, 52)[:2] + textwrap.wrap(answer, 52)[:2]
        ImageDraw.Draw(cell).multiline_text((6, CELL[1] + 2), "\n".join(words), fill="black")
        self.cells.append(cell)

    def image(self) -> Image.Image:
        """The sheet of all scenes that were added; there must be one."""
        rows = -(-len(self.cells) // COLUMNS)
        width, height = self.cells[0].size
        sheet = Image.new("RGB", (width * min(COLUMNS, len(self.cells)), height * rows), "white")
        for number, cell in enumerate(self.cells):
            sheet.paste(cell, (number % COLUMNS * width, number // COLUMNS * height))
        return sheet
