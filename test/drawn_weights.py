"""Weights drawn from seeds, alike on every machine, for a golden whose fitted ones are too large to be kept."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

_TABLES = re.compile(r"(token|tokens|embed|embeddings\.\d)\.weight$|gaussian_matrix$")


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor ``name`` of a SAM, bf16 of ``shape``.

    Integers of numpy's legacy generator, whose stream is fixed for all releases, times a scale: no step depends on a
    library or a processor. The seed is the name's CRC32.
    """
    generator = np.random.RandomState(zlib.crc32(name.encode()))
    numbers = generator.randint(-128, 129, size=shape).astype(np.float32) / np.float32(128)  # in [-1, 1]
    return torch.from_numpy(_scaled(name, numbers)).to(torch.bfloat16)


def _scaled(name: str, numbers: np.ndarray) -> np.ndarray:
    if _TABLES.search(name):
        return numbers
    if numbers.ndim == 1 and name.endswith(".weight"):
        return np.float32(1) + np.float32(0.25) * numbers  # a norm
    if numbers.ndim == 1 or "pos_embed" in name or "rel_pos" in name:
        return np.float32(0.25) * numbers
    transposed = "output_upscaling" in name  # (in, out, row, column)
    inputs = numbers.shape[0] if transposed else math.prod(numbers.shape[1:])
    return numbers * np.float32(math.sqrt(3 / inputs))  # what comes out is as large as what goes in


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC32 of all numbers, in the order of the names."""
    crc = 0
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].contiguous().view(torch.int16).numpy().tobytes(), crc)
    return crc


def drawn_sam(golden: Path) -> dict[str, Tensor]:
    """The SAM of ``golden``, by the reference's names. Its ``sam.json`` has the shapes and the checksum."""
    facts = json.loads((golden / "sam.json").read_text("utf-8"))
    tensors = {name: drawn(name, tuple(shape)) for name, shape in facts["shapes"].items()}
    assert facts["crc32"] in (None, checksum(tensors)), "this machine draws other numbers than the recorded ones"
    return tensors


def write_drawn_checkpoint(golden: Path, folder: Path) -> Path:
    """Write ``golden`` as the reference saves a checkpoint: language model as recorded, SAM drawn. Returns ``folder``.

    One pytorch_model.bin in bf16, its CLIP tower beside the folder, as in the reference's releases.
    """
    folder.mkdir(parents=True)
    for file in (golden / "ckpt").iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    tensors = load_file(golden / "ckpt" / "language.safetensors") | drawn_sam(golden)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder.parent / "clip-tiny").symlink_to(golden / "clip-tiny")
    return folder
