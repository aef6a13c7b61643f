"""The bundled demo model: its weights, the scenes it was trained on, and its training recipe."""

from __future__ import annotations

from pathlib import Path


def default_model() -> Path:
    """Folder of the small LISA, a checkpoint like any other."""
    return Path(__file__).parent / "weights"
