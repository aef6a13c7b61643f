"""LoRA in a checkpoint: its names, and the sum with the weight that it belongs to."""

from __future__ import annotations

import re

from torch import Tensor

LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")
"""Name of a matrix: the layer, and A or B."""


def fold(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + scale * B A, in float32: W (out, in), A ``down`` (rank, in), B ``up`` (out, rank)."""
    return weight.float() + scale * (up.float() @ down.float())
