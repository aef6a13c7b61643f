"""In what precision training multiplies."""

from __future__ import annotations

import torch

from lisa_ros.errors import ConfigError


def half_precision(precision: str) -> torch.autocast:
    """Matrix products and convolutions in ``bf16``, where the processor is quick at it (AMX), or all in ``fp32``."""
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision '{precision}' of the recipe is not fp32 or bf16")
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
