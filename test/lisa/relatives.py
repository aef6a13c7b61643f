"""The goldens of LISA's relatives: compact ones in test/golden, full ones where they lie beside the checkout."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from goldens import GOLDEN, read_rgb
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from lisa_ros import load_engine
from lisa_ros.engine.api import Ask
from lisa_ros.engine.support import SupportedEngine

NAMES = ("sesame", "read", "lasagna", "gsva", "cores")
_FULL = Path(__file__).resolve().parents[3] / "shared" / "goldens"
FULL = {
    name: folder
    for name, folder in zip(NAMES, ("SESAME-A", "READ-A", "LaSagnA-A", "GSVA-A", "CORES-A"), strict=True)
    if (_FULL / folder).is_dir()
}
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True, eq=False)
class Case:
    """One question that a reference answered about one picture. folder: of its golden. full: nothing is left out."""

    name: str
    folder: Path
    facts: dict[str, Any]
    full: bool

    def __str__(self) -> str:
        return f"{'full-' if self.full else ''}{self.name}-{self.facts['id']}"

    @property
    def rgb(self) -> NDArray[np.uint8]:
        return read_rgb(self.folder / self.facts["image"])

    @property
    def ask(self) -> Ask:
        if self.facts.get("kind") == "semantic":
            return Ask(targets=self.facts["classes"])
        question = self.facts.get("user_prompt") or self.facts["question"]
        return Ask(question.removeprefix("<image>\n"), verbatim=True)

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What the reference computed: low_res_masks, coarse_low_res, masks_bits, masks_shape; some may be missing."""
        if not self.full:
            arrays = np.load(self.folder / "cases.npz")
            prefix = f"{self.facts['id']}."
            return {name.removeprefix(prefix): arrays[name] for name in arrays.files if name.startswith(prefix)}
        file = self.folder / f"{self.facts['id']}.npz"
        arrays = np.load(file) if file.is_file() else {}
        return {name.removesuffix("_sub2"): arrays[name] for name in arrays}


def read_cases(name: str) -> Iterator[Case]:
    """The compact cases of a family, then the full ones."""
    for folder, full in [(GOLDEN / name, False), *([(_FULL / FULL[name], True)] if name in FULL else [])]:
        content = json.loads((folder / "cases.json").read_text("utf-8"))
        for facts in content.get("cases") or content.get("chat_cases") or content["free_cases"]:
            yield Case(name, folder, facts, full)


def checkpoint(folder: Path, scratch: Path) -> Path:
    """Folder of a golden's checkpoint. READ's compact one has only the rows of its tables that the cases read."""
    made = folder / ("merged" if (folder / "merged").is_dir() else "ckpt")
    if not (made / "model.safetensors").is_file():
        return made
    tensors = load_file(made / "model.safetensors")
    if "rows" not in tensors:
        return made
    rows, config = tensors.pop("rows"), json.loads((made / "config.json").read_text("utf-8"))
    for table in _TABLES:
        whole = torch.zeros(config["vocab_size"], config["hidden_size"], dtype=tensors[table].dtype)
        tensors[table] = whole.index_copy(0, rows, tensors[table])
    shutil.copytree(made, scratch / folder.name, dirs_exist_ok=True)
    save_file(tensors, scratch / folder.name / "model.safetensors")
    return scratch / folder.name


def load_relative(folder: Path, scratch: Path, **options: Any) -> SupportedEngine:
    """The engine of a golden's checkpoint, in fp32 on the CPU."""
    tower = {"vision_tower": str(folder / "clip-tiny")}
    return load_engine(checkpoint(folder, scratch), device="cpu", precision="fp32", options=tower | options)
