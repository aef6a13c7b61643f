"""The latest commands with their answers, for pages that are opened or loaded again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lisa_console.events import Mask, Picture

log = logging.getLogger(__name__)

MOST_ENTRIES = 50
MOST_BYTES = 32 << 20  # pictures and masks together


@dataclass(eq=False)
class Entry:
    """One command.

    Attributes:
        request_id: Of the node.
        progress: Fields of its last event ``progress``.
        result: Fields of its event ``result``; None while it runs.
        picture: That it is about; None where the console did not see it.
        masks: By label.
        chosen: Label of the chosen mask; 0: none.
        verdict: A person's: right, wrong, or empty.
    """

    request_id: str
    progress: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] | None = None
    picture: Picture | None = None
    masks: dict[int, Mask] = field(default_factory=dict)
    chosen: int = 0
    verdict: str = ""

    @property
    def file_name(self) -> str:
        """Without an ending. A request id may have come from any program on the network: it names no folder."""
        name = "".join(c for c in self.request_id if c.isalnum() or c in "-_")[:64]
        return f"{self.picture.stamp_ns if self.picture else 0}_{name}"

    @property
    def size(self) -> int:
        """Bytes of pictures and masks."""
        picture = self.picture
        held = 0 if picture is None else len(picture.jpeg) + len(picture.thumbnail) + len(picture.png or b"")
        return held + sum(len(mask.png) for mask in self.masks.values())

    def fields(self) -> dict[str, Any]:
        """For the page."""
        stamp = str(self.picture.stamp_ns) if self.picture is not None else ""
        return {
            "id": self.request_id,
            "progress": self.progress,
            "result": self.result,
            "picture": stamp,
            "chosen": self.chosen,
            "verdict": self.verdict,
        }


class History:
    """Entries in the order of their commands; the oldest ones go first.

    Args:
        folder: Where finished entries are written too, as JSON with the picture beside it; None: nowhere.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._entries: dict[str, Entry] = {}
        self._folder = folder

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, request_id: str) -> Entry | None:
        """The entry of a command, if it is still there."""
        return self._entries.get(request_id)

    def open(self, request_id: str) -> Entry:
        """The entry of a command; a new one where there is none."""
        entry = self._entries.get(request_id)
        if entry is None:
            entry = self._entries[request_id] = Entry(request_id)
            self._forget_old()
        return entry

    def finish(self, entry: Entry) -> None:
        """Its result is there: it is written, where a folder is given. Of a standing command the newest one stays."""
        if is_standing(entry):
            for other in [one for one in self if one is not entry and is_standing(one) and not one.verdict]:
                del self._entries[other.request_id]
        self._forget_old()
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            file = self._folder / f"{entry.file_name}.json"
            file.write_text(json.dumps(entry.fields(), ensure_ascii=False, indent=1))
            if entry.picture is not None:
                file.with_suffix(".jpg").write_bytes(entry.picture.jpeg)
        except OSError as error:
            log.warning("history_dir: %s is not written: %s", entry.request_id, error)

    def _forget_old(self) -> None:
        size = sum(entry.size for entry in self)
        for entry in list(self)[:-1]:
            if len(self) <= MOST_ENTRIES and size <= MOST_BYTES:
                return
            size -= entry.size
            del self._entries[entry.request_id]


def is_standing(entry: Entry) -> bool:
    """Whether it is an answer to the node's standing command, which would fill the history."""
    return entry.result is not None and entry.result["source"] == "watch"
