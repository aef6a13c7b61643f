"""The goldens of test/golden: what the reference was asked and what it answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_A = GOLDEN / "A"
ALL_FULL = Path(__file__).resolve().parents[2] / "shared" / "goldens"
"""Where a developer's checkout has the full goldens; elsewhere this folder does not exist."""
FULL = [ALL_FULL / case for case in "AC" if (ALL_FULL / case).is_dir()]
"""LISA's full goldens, which lie beside a developer's checkout: other pictures, fitted masks, nothing left out."""


def read_rgb(file: Path) -> NDArray[np.uint8]:
    """uint8 (H, W, 3)."""
    return np.asarray(Image.open(file).convert("RGB"))


@dataclass(frozen=True, eq=False)
class Case:
    """One question that the reference answered about one picture."""

    folder: Path
    facts: dict[str, Any]
    conversation: str
    start_end: bool

    @property
    def name(self) -> str:
        kind = "full-" if self.folder in FULL else ""
        return f"{kind}{self.folder.name}-{self.facts['id']}"

    @property
    def rgb(self) -> NDArray[np.uint8]:
        return read_rgb(self.folder / self.facts["image"])

    @property
    def low_res_logits(self) -> NDArray[np.float32]:
        """(S, 1, 256 / n, 256 / n): every n-th row and column, to save space."""
        logits: NDArray[np.float32] = np.load(self.folder / f"{self.facts['id']}.npz")["low_res_masks"]
        return logits

    @property
    def masks(self) -> NDArray[np.bool_]:
        """(S, H, W)."""
        return unpacked_masks(np.load(self.folder / f"{self.facts['id']}.npz"))


def unpacked_masks(arrays: Any) -> NDArray[np.bool_]:
    """(S, H, W) bool, from the bits in an npz."""
    shape = arrays["masks_shape"]
    return np.unpackbits(arrays["masks_bits"])[: np.prod(shape)].reshape(shape).astype(bool)


def read_cases(folder: Path) -> Iterator[Case]:
    """The questions of one golden."""
    content = json.loads((folder / "cases.json").read_text("utf-8"))
    for facts in content["chat_cases"]:
        yield Case(folder, facts, content["conv_type"], content["use_mm_start_end"])


def thinned(logits: NDArray[np.float32], like: NDArray[np.float32]) -> NDArray[np.float32]:
    """``logits`` (S, 1, h, w) at the rows and columns that ``like`` holds."""
    step = logits.shape[-1] // like.shape[-1]
    return logits[..., ::step, ::step]


def iou(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks of which one has a pixel."""
    return float((ours & theirs).sum() / (ours | theirs).sum())
